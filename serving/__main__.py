"""An aligned policy behind HTTP: `python -m serving --policy runs/demo/policy`."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, get_args

import ray
import yaml
from ray import serve
from rich.console import Console

from actors.models import ModelError
from actors.scorer import ScorerError
from serving.app import application, settings_of
from serving.environment import serve_environment
from serving.following import Found, look, release_of, start_of
from serving.keys import KeyFileError
from serving.settings import Settings, Template

APPLICATION = "nashloop"
POLL_SECONDS = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        found, given = look(arguments.policy), _given(arguments)
        if start := start_of(arguments.policy):
            if not arguments.follow:
                raise ValueError(f"the run in {arguments.policy} has no policy/ yet; serve what it makes with --follow")
            found, given["policy"] = None, start
        settings = settings_of(given)
        run(settings, arguments.host, arguments.port, arguments.address)
    except (ValueError, ModelError, KeyFileError, ScorerError, OSError, RuntimeError) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    if settings.without_keys:
        console.print("warning: without keys anyone who reaches the port may use the service", style="yellow")
    url = f"http://{arguments.host}:{arguments.port}/v1"
    console.print(f"serving {settings.policy} as {settings.name!r} at {url}", highlight=False, markup=False)
    console.print(f"metrics at {_metrics_url()}", highlight=False, markup=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _follow(settings, found, arguments, console)
    except KeyboardInterrupt:
        serve.shutdown()
    return 0


def run(settings: Settings, host: str, port: int, address: str | None = None) -> None:
    """Start the service, or tell the running one its release, and wait until it answers."""
    if not ray.is_initialized():
        for name, value in serve_environment().items():
            os.environ.setdefault(name, value)
        local = address in (None, "local")
        ray.init(address=address, include_dashboard=False if local else None, log_to_driver=False)
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": settings.limits.deadline + 30.0})
    serve.run(application(settings), name=APPLICATION, route_prefix="/")


def _metrics_url() -> str:
    """Where Prometheus finds what this node exports."""
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def _follow(settings: Settings, served: Found | None, arguments: argparse.Namespace, console: Console) -> None:
    """Release what the policy's name stands for, whenever that has changed and is complete."""
    seen = served
    while True:
        time.sleep(POLL_SECONDS)
        found = look(arguments.policy)
        # Two equal looks in a row: nobody is writing any more.
        if arguments.follow and found and found == seen != served:
            served = found
            try:
                release = release_of(found, settings.served.version + 1, settings.preference)
                settings = settings.model_copy(update={"release": release})
                console.print(f"version {release.version}: {release.policy}", highlight=False, markup=False)
                run(settings, arguments.host, arguments.port)
            except Exception as error:
                # Whatever is wrong with it, what is served goes on; the next change is another try.
                console.print(f"{found.place}: {type(error).__name__}: {error}", style="red", markup=False)
        seen = found


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    given: dict[str, Any] = {"policy": arguments.policy, "without_keys": arguments.without_keys}
    given["scorers"] = dict(_objective(entry) for entry in arguments.scorer)
    for name in ("name", "judge", "template", "keys"):
        if (value := getattr(arguments, name)) is not None:
            given[name] = value
    for entry in arguments.set:
        path, _, value = entry.partition("=")
        *parents, last = path.split(".")
        inner = given
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = yaml.safe_load(value)
    return given


def _objective(entry: str) -> tuple[str, str]:
    name, equals, scorer = entry.partition("=")
    if not equals:
        raise ValueError(f"--scorer {entry!r} is not of the form objective=module:function or objective=folder#head")
    return name, scorer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--policy", required=True, help="model folder, or the run directory that holds it")
    parser.add_argument("--name", help="model name that clients use (default: policy)")
    parser.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="OBJECTIVE=SCORER",
        help="module:function, called with prompt and answer, or folder#head of a reward model; may be repeated",
    )
    parser.add_argument("--judge", help="module:function of a pairwise judge")
    parser.add_argument("--template", choices=get_args(Template), help="how a direction is told")
    parser.add_argument("--keys", help="file with the lines that `python -m serving.keys NAME` makes")
    parser.add_argument("--without-keys", action="store_true", help="let anyone in who reaches the port")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for example limits.deadline=30"
    )
    parser.add_argument(
        "--follow", action="store_true", help="serve each new version: of the folder, the link, or the run"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--address", help="an existing Ray cluster")
    return parser


if __name__ == "__main__":
    sys.exit(main())
