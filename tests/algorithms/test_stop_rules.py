"""Rules on runs that are told: healthy ones break nothing, each illness breaks its rule, and no rule looks ahead."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from algorithms.stop_rules import ChosenFalls, EntropyCollapse, Reversal, Rule, newly_broken

VERSIONS = np.arange(40)
NOISE = np.random.default_rng(0).normal(0, 0.01, (40,))

HEALTHY: dict[str, Sequence[float]] = {
    "entropy": (2.0 - 0.4 * (1 - np.exp(-VERSIONS / 10)) + NOISE).tolist(),
    "chosen_logprob": (-60.0 - 20.0 * (1 - np.exp(-VERSIONS / 10)) + NOISE).tolist(),
    "top_entropy": (1.5 - 0.4 * (1 - np.exp(-VERSIONS / 10)) + NOISE).tolist(),
    "top_mass": (0.7 + 0.1 * (1 - np.exp(-VERSIONS / 10)) + NOISE / 10).tolist(),
}
RULES: Mapping[str, Rule] = {"entropy": EntropyCollapse(), "chosen": ChosenFalls(), "reversal": Reversal()}


def history(**changes: Sequence[float]) -> list[dict[str, float]]:
    names = {**HEALTHY, **changes}
    return [dict(zip(names, row, strict=True)) for row in zip(*names.values(), strict=True)]


def first_break(rule: Rule, rows: Sequence[Mapping[str, float]]) -> int | None:
    """The first number of versions at which the rule is broken."""
    return next((count for count in range(len(rows) + 1) if rule.broken(rows[:count])), None)


def valley(turn: int, low: float, high: float) -> list[float]:
    """Falls from `high` to `low` until `turn`, and rises again."""
    return [high - (high - low) * (1 - abs(version - turn) / 20) for version in VERSIONS.tolist()]


def test_a_healthy_run_breaks_nothing_at_any_time() -> None:
    for rule in RULES.values():
        assert first_break(rule, history()) is None


def test_entropy_collapse_is_found_when_it_has_happened() -> None:
    falling = (2.0 * np.exp(-VERSIONS / 12)).tolist()
    rows = history(entropy=falling)
    found = first_break(EntropyCollapse(), rows)
    assert found is not None
    start = np.mean(falling[:3])
    assert np.mean(falling[found - 3 : found]) < 0.4 * start <= np.mean(falling[found - 4 : found - 1])
    lenient = first_break(EntropyCollapse(share=0.1), rows)
    assert lenient is not None
    assert lenient > found
    assert "collapsed" in (EntropyCollapse().broken(rows) or "")


def test_one_odd_version_breaks_nothing() -> None:
    odd = list(HEALTHY["entropy"])
    odd[20] = 0.1
    assert first_break(EntropyCollapse(window=3), history(entropy=odd)) is None
    assert first_break(EntropyCollapse(window=1), history(entropy=odd)) == 21


def test_chosen_answers_that_fall_and_recover_are_left_alone() -> None:
    without_bound = (-60.0 - 4.0 * VERSIONS).tolist()
    found = first_break(ChosenFalls(limit=50.0), history(chosen_logprob=without_bound))
    assert found is not None
    assert 12 <= found <= 18
    later = first_break(ChosenFalls(limit=120.0), history(chosen_logprob=without_bound))
    assert later is not None
    assert later > found
    recovers = np.where(VERSIONS < 12, -60.0 - 4.0 * VERSIONS, -104.0 + VERSIONS).tolist()
    assert first_break(ChosenFalls(limit=40.0), history(chosen_logprob=recovers)) is None
    levels_off = (-60.0 - 100.0 * (1 - np.exp(-VERSIONS / 4)) + 0.5 * np.sin(VERSIONS)).tolist()
    rows = history(chosen_logprob=levels_off)
    assert ChosenFalls(limit=50.0).broken(rows) is None
    assert ChosenFalls(limit=50.0, patience=1, window=1).broken(rows[:8])


@pytest.mark.parametrize("turn", [15, 20])
def test_a_reversal_needs_both_signals_and_comes_after_the_turn(turn: int) -> None:
    entropy = valley(turn, 1.0, 1.5)
    mass = [1.0 - value / 3 for value in entropy]
    found = first_break(Reversal(), history(top_entropy=entropy, top_mass=mass))
    assert found is not None
    assert turn < found <= turn + 12
    assert first_break(Reversal(), history(top_entropy=entropy)) is None
    assert first_break(Reversal(), history(top_mass=mass)) is None


def test_every_option_of_a_reversal_changes_when_it_is_told() -> None:
    entropy = valley(15, 1.0, 1.5)
    rows = history(top_entropy=entropy, top_mass=[1.0 - value / 3 for value in entropy])
    usual = first_break(Reversal(), rows)
    assert usual is not None
    for rule in (Reversal(window=5), Reversal(patience=5), Reversal(tolerance=0.6)):
        later = first_break(rule, rows)
        assert later is None or later > usual, rule
    renamed = [{"h": row["top_entropy"], "m": row["top_mass"]} for row in rows]
    assert first_break(Reversal(entropy="h", mass="m"), renamed) == usual


def test_what_is_missing_or_not_finite_is_passed_over() -> None:
    falling = (2.0 * np.exp(-VERSIONS / 12)).tolist()
    rows = history(entropy=falling)
    holes = [{**row, "entropy": float("nan")} if i % 2 else row for i, row in enumerate(rows)]
    assert EntropyCollapse().broken(holes)
    for rule in RULES.values():
        assert rule.broken([{}] * 40) is None
        assert rule.broken([]) is None


def test_each_rule_is_told_once() -> None:
    rows = history(entropy=(2.0 * np.exp(-VERSIONS / 12)).tolist())
    assert newly_broken(RULES, rows, set()).keys() == {"entropy"}
    assert not newly_broken(RULES, rows, {"entropy"})
