"""Promise 7: any single actor may die at any time; the run goes on, and the ledger balances."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.loop.support import Outcome, Runs, read_lines, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHANGES: dict[str, Any] = {
    "model": {"context": 256},
    "loop": {"steps": 24, "eta": 2},
    "rollout": {"engines": 2},
    "scoring": {"panel": ["tests.judges:mortal_ascii_share"], "scorers": 2},
    "learner": {"workers": 2, "checkpoint_every": 2},
    "evaluation": {"final_prompts": 4},
}


Bereaved = tuple[Outcome, list[psutil.Process], Path]


class Watcher:
    """Looks at a run from outside, as an operator would: through its events and the process table."""

    def __init__(self, path: Path) -> None:
        self._events = path / "events.jsonl"

    def version(self) -> int:
        """Versions trained so far."""
        return max((event["version"] + 1 for event in self.events("trained")), default=0)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the journal so far."""
        return [event for event in read_lines(self._events) if event["event"] == name]

    def process(self, member: str) -> psutil.Process:
        """The latest process of a member."""
        latest = [event["detail"] for event in self.events("ready") if event["member"] == member][-1]
        return psutil.Process(int(latest.removeprefix("process ")))


def vllm_processes(engine: psutil.Process) -> list[psutil.Process]:
    """What vLLM started for an engine."""
    found = [child for child in engine.children(recursive=True) if "VLLM" in " ".join(child.cmdline())]
    assert found
    return found


@pytest.fixture(scope="module")
def bereaved(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Bereaved:
    """A run that loses a scorer that judges, an engine, vLLM's process of another engine, and a learner worker.

    Returns: the run, vLLM's processes of the lost engine, and its folder for weights.
    """
    prompts = tmp_path_factory.mktemp("mortal") / "prompts.jsonl"
    asked = [f"die {prompts.with_name('died')}", *(f"say {i} things" for i in range(19))]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked), encoding="utf-8")
    future = runs.start("bereaved", **CHANGES, data={"prompts": str(prompts)})
    watcher = Watcher(runs.folder / "bereaved")

    def reach(version: int) -> None:
        until(lambda: future.done() or watcher.version() >= version, 400, f"version {version}")
        assert not future.done(), "the run ended before everything was killed"

    reach(2)
    both = {"engine-0", "engine-1"}
    until(lambda: future.done() or both <= {e["member"] for e in watcher.events("ready")}, 200, "both engines")
    first, second = watcher.process("engine-0"), watcher.process("engine-1")
    orphans = vllm_processes(first)
    folder = Path(orphans[0].environ()["NASHLOOP_ENGINE_SCRATCH"])
    assert any(path.is_socket() for path in folder.iterdir()), "vLLM's sockets lie here, and are removed with it"
    first.send_signal(signal.SIGKILL)
    reach(5)
    (core,) = vllm_processes(second)[:1]
    core.send_signal(signal.SIGKILL)
    watcher.process("learner").send_signal(signal.SIGKILL)
    return future.result(timeout=500), orphans, folder


def test_the_run_goes_on(bereaved: Bereaved) -> None:
    outcome = bereaved[0].succeeded()
    loop, summary = outcome.config.loop, outcome.summary
    assert summary["version"] == loop.steps
    assert summary["restarts"] == {"engines": 2, "scorers": 1}
    assert len(outcome.events("learner_restarted")) == 1
    assert (outcome.path / "policy" / "config.json").exists()


def test_the_ledger_still_balances(bereaved: Bereaved) -> None:
    outcome = bereaved[0].succeeded()
    loop, ledger = outcome.config.loop, outcome.summary["ledger"]
    assert ledger == {"admitted": 96, "trained": 96, "rejected": 0, "in_flight": 0}
    for name in ("admitted", "scored", "trained"):
        groups = [event["group"] for event in outcome.events(name)]
        assert len(groups) == len(set(groups)) == 96, name
    trained = outcome.trained()
    assert len({group.id for _, group in trained}) == len(trained) == 96
    assert [line["version"] for line in outcome.metrics("step")] == list(range(1, loop.steps + 1))
    assert all(version - group.oldest_version <= loop.eta for version, group in trained)


def test_lost_work_is_issued_again(bereaved: Bereaved) -> None:
    reissued = bereaved[0].succeeded().events("reissued")
    assert [event["plane"] for event in reissued].count("scoring") == 1
    restarted = {event["member"] for event in bereaved[0].events("restarted")}
    assert {"engine-0", "engine-1"} < restarted <= {"engine-0", "engine-1", "scorer-0", "scorer-1"}


def test_a_replaced_engine_serves_the_current_version(bereaved: Bereaved) -> None:
    outcome = bereaved[0].succeeded()
    assert outcome.events("published")[-1]["version"] == outcome.config.loop.steps
    assert outcome.summary["mismatch"]["max_abs_logprob"] < 1e-3


def test_nothing_of_vllm_outlives_its_actor(bereaved: Bereaved) -> None:
    until(lambda: not any(process.is_running() for process in bereaved[1]), 20, "vLLM's processes to end")
    assert os.getpid() not in {process.pid for process in bereaved[1]}
    until(lambda: not bereaved[2].exists(), 20, "the folder of the lost engine to be removed")
