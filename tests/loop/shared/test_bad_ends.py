"""Promise 6: nothing hangs and nothing is swallowed: judges that fail, clusters too small, a disk that is full."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from tests.loop.support import Outcome, Runs, same_weights
from workflows.align import align
from workflows.preflight import ResourceError
from workflows.training import RunFailed, Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def prompt(message: dict[str, str]) -> str:
    """The fault that a prompt names."""
    return message["content"].partition(" ")[0]


def test_groups_that_cannot_be_scored_are_rejected_with_the_reason(misbehaving: Outcome) -> None:
    summary = misbehaving.succeeded().summary
    details = {event["reason"]: event["detail"] for event in misbehaving.events("rejected")}
    assert details.keys() == {"scorer_error", "invalid_preference", "scorer_lost"}
    assert "misbehaving raised ValueError: this judge refuses" in details["scorer_error"]
    assert "judge misbehaving" in details["invalid_preference"]
    assert "(deadlines.score)" in details["scorer_lost"]
    assert summary["rejections"] == Counter(event["reason"] for event in misbehaving.events("rejected"))
    assert summary["rejections"]["invalid_preference"] >= 2, "a judge that returns NaN, and one that contradicts itself"


def test_rejected_groups_are_counted_and_never_trained(misbehaving: Outcome) -> None:
    loop, ledger = misbehaving.succeeded().config.loop, misbehaving.summary["ledger"]
    assert ledger["trained"] == loop.steps * loop.batch
    assert ledger["in_flight"] == 0
    assert ledger["admitted"] == ledger["trained"] + ledger["rejected"]
    admitted = [event["group"] for event in misbehaving.events("admitted")]
    ended = [event["group"] for event in misbehaving.events("trained", "rejected")]
    assert sorted(admitted) == sorted(ended)
    assert len(set(admitted)) == ledger["admitted"]
    assert {prompt(group.messages[-1]) for _, group in misbehaving.trained()} == {"good"}


def test_a_scorer_that_hangs_is_replaced(misbehaving: Outcome) -> None:
    """And a group that waits behind it pays nothing."""
    lost = [event["group"] for event in misbehaving.succeeded().events("rejected") if event["reason"] == "scorer_lost"]
    assert misbehaving.summary["restarts"]["scorers"] == 2 * len(lost), "each such group is tried twice"
    assert len(misbehaving.events("reissued")) == 2 * len(lost)


def test_a_run_that_is_stopped_while_it_starts_has_started_no_learner(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other runs of this process start theirs meanwhile."""
    begun: list[int] = []
    start = Training.start

    def noted(training: Training) -> None:
        begun.append(threading.get_ident())
        start(training)

    monkeypatch.setattr(Training, "start", noted)
    with pytest.raises(RunFailed, match="nobody wants it any more, before it began"):
        align(runs.config("unwanted"), watch=lambda status: "nobody wants it any more")
    assert threading.get_ident() not in begun


def test_a_cluster_that_is_too_small_is_refused_at_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sleep, as there is between two looks at a cluster that may grow; other runs of this process sleep."""
    config = runs.config("too_large", rollout={"engines": 3, "cpus": 50}, learner={"workers": 2})
    here = threading.get_ident()

    def sleep(seconds: float) -> None:
        assert threading.get_ident() != here, "it waited"
        time.sleep(seconds)

    monkeypatch.setattr("workflows.align.time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    with pytest.raises(ResourceError) as refused:
        align(config)
    message = str(refused.value)
    assert "the cluster can't hold the rollout plane" in message
    assert "demanded:  152 CPUs" in message
    assert "available: 12 CPUs" in message
    assert not (runs.folder / "too_large" / "events.jsonl").exists(), "a plane was started"


@dataclass(frozen=True)
class FullDisk:
    """A run whose disk was full, and the same run once there was space."""

    stopped: Outcome
    left: list[str]
    resumed: Outcome


@pytest.fixture(scope="module")
def full_disk(runs: Runs) -> Iterator[FullDisk]:
    """The run directory lies on a file system with room for one checkpoint, which is then made larger."""
    # A learner that is started again meets the same full disk: with so many restarts the run would not end.
    config = runs.config("full_disk", learner={"max_restarts": 1000})
    folder = runs.folder / "full_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs more rights")
    try:
        stopped = runs.run(config)
        left = sorted(path.name for path in (folder / "experience").iterdir())
        for name in left:
            assert pq.read_table(folder / "experience" / name).num_rows == config.loop.batch
        subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
        yield FullDisk(stopped, left, runs.run(config))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_says_so(full_disk: FullDisk) -> None:
    assert isinstance(full_disk.stopped.error, RunFailed)
    assert str(full_disk.stopped.error) == (
        f"a disk is full (No space left on device): make room where {full_disk.stopped.path} and the temporary files "
        "lie, and start the run again; it goes on from its last checkpoint"
    )
    assert full_disk.left, "what was written before is kept"
    assert all(Path(name).suffix == ".parquet" for name in full_disk.left)


def test_with_space_the_run_goes_on_where_it_was(full_disk: FullDisk, synchronous: Outcome) -> None:
    resumed = full_disk.resumed.succeeded()
    assert resumed.events("resumed")[0]["version"] > 0
    trained = resumed.trained()
    assert len(trained) == len({group.id for _, group in trained}) == resumed.summary["ledger"]["trained"] == 24
    assert same_weights(resumed.weights(), synchronous.succeeded().weights())


def test_a_journal_that_cannot_be_written_ends_the_run(runs: Runs, tmp_path: Path) -> None:
    """It takes a page of events, which is full before the first batch; everything else has room.

    Nothing else ends the run in the time of the test: the learner would wait for its batch for longer.
    """
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting a small file system needs more rights")
    try:
        folder = runs.folder / "full_journal"
        folder.mkdir()
        (folder / "events.jsonl").symlink_to(tmp_path / "events.jsonl")
        config = runs.config("full_journal", loop={"eta": 4}, deadlines={"batch": 3600})
        outcome = runs.run(config)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
    assert str(outcome.error).startswith("a disk is full (No space left on device)")
