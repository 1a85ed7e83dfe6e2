"""What all tests share: one thread a process, fast tests first, a tiny model with prompts for those that need one."""

import os

# Before torch is imported: two processes with two threads each are far slower on two cores than with one each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers the least priority, which starves them where anything else runs on the same machine.
os.environ.setdefault("RAY_worker_niceness", "0")

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Machines that share their cores fail a time limit per example at random.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

PROMPTS = 40
HELDOUT = 12


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs no engine runs first, so that most faults show within seconds.

    Then the longest texts, so that of several processes none is left alone with much at the end.
    """
    sizes: Counter[str] = Counter()
    for path, part in {item.path: part_of(item.nodeid) for item in items}.items():
        sizes[part] += path.stat().st_size
    items.sort(key=lambda item: (is_slow(item), is_slow(item) and -sizes[part_of(item.nodeid)]))
    for item in items:
        # A run that a test asks for may stand behind others in the queue.
        if is_slow(item) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes, each takes one part of the tests after the other."""
    from xdist.scheduler import LoadScopeScheduling

    class Parts(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return part_of(nodeid)

    return Parts(config, log)


def is_slow(item: pytest.Item) -> bool:
    """Whether it needs an engine."""
    return item.get_closest_marker("slow") is not None


def part_of(test: str) -> str:
    """The file of a test, or the folder whose files look at the same runs."""
    file = test.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder.endswith("/shared") else file


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random model with tied embeddings and a byte tokenizer."""
    from tests.tiny import make_model

    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def prompt_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of `prompts` and `heldout`."""
    folder = tmp_path_factory.mktemp("prompts")
    counts = {"prompts": PROMPTS, "heldout": HELDOUT}
    for name, count in counts.items():
        lines = [json.dumps({"prompt": f"{name}: say {i} things"}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in counts}
