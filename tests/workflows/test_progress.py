"""Progress says in one line where the run is, and how long it will take."""

import io
from typing import Any

import pytest
from rich.console import Console

from workflows.progress import RunProgress, describe, seconds_left

RUNNING: dict[str, Any] = {
    "version": 10,
    "engines_ready": 1,
    "ledger": {"admitted": 30, "trained": 20, "rejected": 1, "in_flight": 9},
    "failure": None,
    "finished": False,
    "seconds": 130.0,
    "begun_seconds": 30.0,
    "evaluation": None,
    "latest": {"margin": 0.25, "kl": 1.5},
    "throughput": {"completions_per_second": 12.34},
    "overlap_efficiency": 0.875,
    "staleness_mean": 1.5,
}
EVALUATION = {"version": 8, "win_rate": {"mean": 0.71, "low": 0.6, "high": 0.8, "n": 48}}


def test_time_left_is_at_the_pace_since_the_first_batch() -> None:
    assert seconds_left(10, 40, seconds=130, begun=30) == 300
    assert seconds_left(40, 40, seconds=430, begun=30) == 0
    assert seconds_left(0, 40, seconds=130, begun=30) is None
    assert seconds_left(-1, 40, seconds=130, begun=30) is None


@pytest.mark.parametrize(
    "part",
    [
        "version 10/40",
        "20 trained, 9 in flight, 1 rejected",
        "staleness 1.50",
        "12.3 completions/s",
        "overlap 88%",
        "margin 0.25, KL 1.5",
        "win rate 0.71 [0.60, 0.80] at version 8",
        "5.0 min left",
    ],
)
def test_a_line_has_everything_that_is_watched(part: str) -> None:
    assert part in describe(RUNNING | {"evaluation": EVALUATION}, 40)


def test_before_the_start_it_says_what_is_waited_for() -> None:
    assert describe(RUNNING | {"version": -1}, 40) == "starting: 1 engines ready, waiting for the learner"
    assert "margin" not in describe(RUNNING | {"version": 0, "latest": {}}, 40)
    assert "left" not in describe(RUNNING | {"version": 0, "latest": {}}, 40)


def test_at_the_end_it_evaluates() -> None:
    end = RUNNING | {"version": 40}
    assert describe(end, 40).endswith("evaluating the final policy")
    assert "evaluating" not in describe(end | {"finished": True}, 40)
    assert "left" not in describe(end, 40)


def test_a_log_gets_a_line_for_news_and_not_for_every_look() -> None:
    file = io.StringIO()
    with RunProgress(40, Console(file=file, width=300)) as progress:
        for version in (-1, -1, 0, 1, 2):
            progress.show(RUNNING | {"version": version})
        progress.show(RUNNING | {"version": 9, "evaluation": EVALUATION})
        progress.show(RUNNING | {"version": 9, "evaluation": EVALUATION})
    lines = file.getvalue().splitlines()
    assert [line.split("] ")[1].split(" | ")[0] for line in lines] == [
        "starting: 1 engines ready, waiting for the learner",
        "version 0/40",
        "version 9/40",
    ]
    assert lines[0].startswith("[   130 s]")


def test_a_terminal_shows_a_bar_and_the_figures() -> None:
    file = io.StringIO()
    with RunProgress(40, Console(file=file, width=100, height=30, force_terminal=True)) as progress:
        progress.show(RUNNING)
    assert "10/40 versions" in file.getvalue()
    assert "20 trained" in file.getvalue()
