"""The same through a cluster with token authentication: `ray start --head`, then `ray job submit`."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from serving.environment import free_ports
from tests.loop.support import Outcome, Runs, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")


def environment() -> dict[str, str]:
    """What a person sets in the shell: this Python first, and tokens; and no less priority than what runs beside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@dataclass(frozen=True)
class Head:
    """A cluster of one node."""

    dashboard: str

    def answers(self) -> bool:
        """Whether jobs can be submitted."""
        try:
            urllib.request.urlopen(f"{self.dashboard}/api/version", timeout=5)
        except urllib.error.HTTPError as error:
            return error.code in (401, 403)
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node of its own, started as a person would start it."""
    # Ray's sockets lie in it, whose names must be short.
    folder = tempfile.mkdtemp(prefix="nashloop-", dir="/tmp")
    # Of its own: other clusters may run on this machine.
    port, dashboard, client, listen, grpc = free_ports(5)
    options = {
        "port": port,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": listen,
        "dashboard-agent-grpc-port": grpc,
        "num-cpus": 4,
        "temp-dir": folder,
        "object-store-memory": 2**28,
    }
    # `--block`, because `ray stop` would end every cluster of this machine.
    command = [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    with (Path(folder) / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    found = Head(f"http://127.0.0.1:{dashboard}")
    try:
        until(lambda: found.answers() or process.poll() is not None, 120, "the cluster's dashboard")
        assert process.poll() is None, (Path(folder) / "head.log").read_text()
        yield found
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_without_a_token_nothing_is_accepted(head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{head.dashboard}/api/jobs/", timeout=30)
    assert refused.value.code in (401, 403)


def test_a_submitted_job_leaves_its_run_directory(head: Head, runs: Runs) -> None:
    changes = {"loop": {"steps": 2}, "evaluation": {"final_prompts": 4}, "scoring": {"cpus": 1}}
    file, config = runs.config_file("job", **changes), runs.config("job", **changes)
    began = time.monotonic()
    submit = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", "."]
    result = subprocess.run(
        [*submit, "--", "python", "-m", "workflows.align", "--config", str(file)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    outcome = Outcome(config=config, error=None, seconds=time.monotonic() - began)
    assert outcome.summary["ledger"] == {"admitted": 8, "trained": 8, "rejected": 0, "in_flight": 0}
    assert outcome.weights()
    assert (outcome.path / "report.html").exists()


def test_a_sweep_on_a_remote_cluster_is_a_job_of_it(head: Head, runs: Runs) -> None:
    base = runs.tree("base", scoring={"cpus": 1})
    tree = {
        "name": "remote",
        "directory": str(runs.folder),
        "base": {key: value for key, value in base.items() if key not in ("name", "directory")},
        "space": {"learner.learning_rate": {"values": [1e-4, 1e-3]}},
    }
    file = runs.folder / "remote.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "workflows.sweep", "--config", str(file), "--dry-run", "--address", head.dashboard],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    # Four CPUs hold one trial of three.
    assert "trials: 2, at once (max_concurrent_trials): 1" in result.stdout
    assert not (runs.folder / "remote").exists()
