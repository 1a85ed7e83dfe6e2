"""One Ray cluster for all tests of the loop, and the runs that several of them look at."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.rollout import RolloutEngine, engine_environment
from tests.loop.support import RUNS, Outcome, Runs, wanted

CPUS = 12
"""Logical ones: what is tested is the loop, not the speed."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of a local cluster with room for several runs."""
    context: Any = ray.init(
        num_cpus=CPUS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=2**29,
        # Ray would begin with as many idle processes as CPUs, most of which no run uses.
        _system_config={"prestart_worker_first_driver": False},
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="session")
def faulty_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prompts whose first word tells `tests.judges:misbehaving` what to do."""
    kinds = ["raise", "nan", "contradict", "hang", *["good"] * 19]
    path = tmp_path_factory.mktemp("faulty") / "faulty.jsonl"
    lines = [json.dumps({"prompt": f"{kind} {i}"}) for i, kind in enumerate(kinds)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"faulty": str(path)}


@pytest.fixture(scope="session")
def runs(
    request: pytest.FixtureRequest,
    cluster: str,
    tiny_model: Path,
    prompt_files: dict[str, str],
    faulty_files: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runs]:
    """Starts runs; those that the selected tests need are begun at once, in the order of the tests."""
    torch.set_num_threads(1)
    started = Runs(tmp_path_factory.mktemp("runs"), tiny_model, prompt_files | faulty_files)
    fixtures = (name for item in request.session.items for name in getattr(item, "fixturenames", ()))
    for name in wanted(fixtures):
        started.start(name, **RUNS[name])
    yield started
    started.close()


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
    def run(runs: Runs) -> Outcome:
        return runs.shared(name)

    run.__doc__ = f"The run `{name}`, ended."
    return pytest.fixture(scope="session", name=name)(run)


for _name in RUNS:
    globals()[_name] = _shared(_name)
