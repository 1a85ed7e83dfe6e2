"""One Ray cluster for all tests of the loop, and what starts runs on it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tests.loop.support import Runs

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
    cluster: str,
    tiny_model: Path,
    prompt_files: dict[str, str],
    faulty_files: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Runs]:
    torch.set_num_threads(1)
    started = Runs(tmp_path_factory.mktemp("runs"), tiny_model, prompt_files | faulty_files)
    yield started
    started.close()
