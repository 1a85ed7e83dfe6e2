"""The runs that several files look at, and an engine outside any run: one process has all tests of this folder."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from actors.rollout import RolloutEngine, engine_environment
from tests.loop.support import RUNS, Outcome, Runs, wanted


@pytest.fixture(scope="session")
def shared_runs(request: pytest.FixtureRequest, runs: Runs) -> Runs:
    """Has begun those of `RUNS` that the selected tests need, in the order of the tests."""
    fixtures = (name for item in request.session.items for name in getattr(item, "fixturenames", ()))
    for name in wanted(fixtures):
        runs.start(name, **RUNS[name])
    return runs


@pytest.fixture(scope="session")
def engine(runs: Runs) -> Iterator[Any]:
    """A rollout engine outside any run, configured as that of the run `synchronous`."""
    config = runs.config("synchronous")
    options = ray.remote(RolloutEngine).options(
        num_cpus=1, max_concurrency=1000, runtime_env={"env_vars": engine_environment(config)}
    )
    actor: Any = options.remote("engine-alone", config)
    ray.get(actor.start.remote(), timeout=config.deadlines.start)
    yield actor
    ray.get(actor.stop.remote(), timeout=30)
    ray.kill(actor)


def _shared(name: str) -> Callable[..., Any]:
    def run(shared_runs: Runs) -> Outcome:
        return shared_runs.shared(name)

    run.__doc__ = f"The run `{name}`, ended."
    return pytest.fixture(scope="session", name=name)(run)


for _name in RUNS:
    globals()[_name] = _shared(_name)
