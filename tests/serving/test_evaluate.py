"""The comparison of rps with best-of-n: on policies whose quality by direction is known, and through real requests."""

import asyncio
import re
from pathlib import Path

import pytest

from serving.evaluate import AngleResult, Choice, evaluate, summarise
from serving.evaluate_report import HEADER, write_report
from serving.rewards import verbosity, warmth
from tests.serving.echo import Echo, client, settings


def vowels_by_direction(prompt: str, seed: int) -> str:
    """Warm answers for directions up to 20 degrees, cold ones beyond, as of a policy that was trained up to there."""
    found = re.search(r"warmth\*(-?\d+) \+ length\*(-?\d+)", prompt)
    assert found, "a candidate was written without its direction"
    return ("aeiou" if int(found[2]) <= 35 else "bcdfg") + "b" * (seed % 3)


def run(angle: float, trained: tuple[float, float]) -> AngleResult:
    """One angle, through the application."""
    of = settings()

    async def ask() -> list[AngleResult]:
        async with client(of, Echo(of, vowels_by_direction)) as asking:
            prompts = [f"prompt {i}" for i in range(8)]
            return await evaluate(asking, prompts, [angle], trained, k=5, model="policy", max_tokens=8)

    (result,) = asyncio.run(ask())
    return result


def test_rps_wins_where_only_its_neighbours_are_covered_and_not_where_all_are() -> None:
    beyond, within = run(30, (-45, 20)), run(0, (-45, 20))
    assert beyond.comparison.wins == 8
    assert beyond.comparison.gain.low > 0
    assert (beyond.covered, within.covered) == (False, True)
    assert within.comparison.gain.mean == pytest.approx(0, abs=0.05)
    assert beyond.scores["rps"] - beyond.scores["best_of_n"] == pytest.approx(beyond.comparison.gain.mean)
    assert within.written["warmth"] > beyond.written["warmth"] == 0.0, "nothing warm is written beyond the arc"
    assert beyond.judge is not None
    assert beyond.judge.length_controlled is not None


def test_a_win_rate_that_comes_from_length_alone_is_gone_at_equal_length() -> None:
    """rps wins exactly where its answer is the longer one, which it is three times of four."""
    longer = [i % 4 > 0 for i in range(40)]
    ours = [choice("word " * (20 if each else 2), float(each)) for each in longer]
    theirs = [choice("word " * (2 if each else 20), float(not each)) for each in longer]
    result = summarise(30, False, 5, {"rps": ours, "best_of_n": theirs}, None)
    assert result.comparison.win_rate.mean == 0.75
    assert result.length_controlled is not None
    assert 0.5 <= result.length_controlled < 0.65
    few = summarise(30, False, 5, {"rps": ours[:3], "best_of_n": theirs[:3]}, None)
    assert few.length_controlled is None


def choice(text: str, score: float, mean_score: float = 0.0) -> Choice:
    """What a method chose; its candidates are as warm as they score."""
    return Choice(text=text, score=score, mean_score=mean_score, mean_rewards={"warmth": mean_score, "length": 0.25})


def test_the_figures_of_a_result_and_its_report(tmp_path: Path) -> None:
    ours = [choice("a b", score, 0.5) for score in (1.0, 2.0, 3.0, 4.0)]
    theirs = [choice("a b c d", score, 1.5) for score in (0.0, 2.0, 4.0, 2.0)]
    result = summarise(30, False, 5, {"rps": ours, "best_of_n": theirs}, [1.0, 0.5, 0.0, 1.0])
    assert (result.comparison.wins, result.comparison.losses, result.comparison.ties) == (2, 1, 1)
    assert result.gain_of_choosing == {"rps": 2.0, "best_of_n": 0.5}
    assert result.scores == {"rps": 2.5, "best_of_n": 2.0}
    assert result.words == {"rps": 2.0, "best_of_n": 4.0}
    assert result.written == {"warmth": 1.5, "length": 0.25}
    assert result.judge is not None
    assert (result.judge.mean, result.judge.length_controlled) == (0.625, None)
    about = {"prompts": 4, "k": 5, "trained": [-45, 0], "max_tokens": 8, "neighborhood": "grid"}
    paths = write_report(tmp_path / "out", [result], about)
    text = paths[0].read_text()
    assert "| 30 | no | 2 / 1 / 1 | 0.62" in text
    assert "| 30 | 1.500 | 0.250 |" in text
    assert text.count("|") == 3 * (len(HEADER) + 1) + 3 * 4
    assert paths[1].stat().st_size > 5000


def test_the_measurable_rewards() -> None:
    assert warmth("", "I love this, it is wonderful.") > 0.85 > 0.5 > warmth("", "I hate this. It is terrible.")
    assert warmth("", "") == warmth("", "It is there.") == 0.5
    kind = "I love it."
    assert warmth("", f"{kind} {kind}") == pytest.approx(warmth("", kind)), "more of the same is no warmer"
    assert (verbosity("", "one two"), verbosity("", "w " * 200)) == (2 / 80, 1.0)
