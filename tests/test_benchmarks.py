"""What the benchmarks compute from measurements, and that what they compare computes the same thing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner import Learner
from actors.policy import Policy
from actors.scorer import Panel
from actors.scorers.config import ScoringConfig
from actors.work import alone
from algorithms.objective import build_objective
from benchmarks import judges
from benchmarks.learner import distinct_tokens, make_groups
from benchmarks.loop import SEQUENCES, next_sequences
from benchmarks.measure import Measurement, ratios, take_turns
from benchmarks.models import make_llama, vocabulary_and_merges
from benchmarks.plain_training import PlainTrainer, all_pairs
from benchmarks.results import Figure, markdown
from benchmarks.runs import (
    REACHED,
    configuration,
    first_version_reaching,
    reason_to_end,
    seconds_to_version,
    steady_state,
)
from benchmarks.scoring import BareLoop, cached_verdicts, classifier
from benchmarks.scoring import make_groups as make_reward_groups
from benchmarks.trl import completions_per_second, config_of
from benchmarks.trl_time import EVALUATION, STEPS, time_to_goal


def step(seconds: float, **fields: float) -> dict[str, Any]:
    """A step line with both planes busy all the time."""
    return {"seconds": seconds, "idle_rollout": 0.0, "idle_learner": 0.0, "batch_completions": 16.0, **fields}


def test_what_is_compared_takes_turns_and_is_divided_within_a_turn() -> None:
    order: list[str] = []

    def measure(name: str, value: float) -> Measurement:
        def measurement(turn: int) -> float:
            order.append(f"{name}{turn}")
            return value + turn

        return measurement

    values = take_turns({"a": measure("a", 2.0), "b": measure("b", 1.0)}, 2)
    assert order == ["a0", "b0", "a1", "b1"]
    assert values == {"a": [2.0, 3.0], "b": [1.0, 2.0]}
    assert ratios(values["a"], values["b"]) == [2.0, 1.5]


@pytest.mark.parametrize(("bound", "met"), [("at least", True), ("at most", False)])
def test_the_median_decides_whether_a_target_is_met(bound: Any, met: bool) -> None:
    figure = Figure(name="x", values=(0.1, 0.95, 1.0), target=0.9, bound=bound)
    assert figure.median == 0.95
    assert figure.met is met
    assert Figure(name="x", values=(1.0,)).met is None


def test_a_value_that_is_no_number_misses_its_target() -> None:
    assert Figure(name="x", values=(math.nan,), target=0.5).met is False
    assert Figure(name="x", values=(math.inf,), target=0.5, bound="at most").met is False


def test_results_name_machine_commit_command_and_verdicts() -> None:
    figure = {"name": "a | b", "values": [0.8, 0.82], "unit": "", "target": 0.9, "bound": "at least", "note": "n"}
    hardware = {"cpus": 2, "processor": "Some CPU", "memory_gib": 24.0, "gpus": []}
    text = markdown(
        [
            {
                "benchmark": "generation",
                "bound": "It is fast.",
                "command": "python -m benchmarks generation",
                "commit": "abc",
                "hardware": hardware,
                "versions": {"torch": "2.13.0"},
                "seconds": 12.0,
                "figures": [{**figure, "median": 0.81, "met": False}],
            }
        ]
    )
    for expected in ("a \\| b | 0.81 | 0.8 to 0.82 | at least 0.9 | MISSED", "Some CPU", "commit abc", "torch 2.13.0"):
        assert expected in text
    assert "python -m benchmarks generation" in text


def test_steady_state_leaves_out_start_and_end() -> None:
    steps = [step(100.0), step(101.0), step(103.0, idle_learner=0.5), step(105.0, idle_rollout=0.25), step(900.0)]
    state = steady_state(steps, 2, 4)
    assert (state.wall, state.generation, state.learning) == (4.0, 3.5, 3.0)
    assert state.overlap_efficiency == 3.5 / 4.0
    assert state.completions_per_second == 8.0
    with pytest.raises(ValueError, match="window"):
        steady_state(steps, 0, 4)


def test_time_to_a_version_counts_from_the_first_admission() -> None:
    events = [
        {"time": 1.0, "event": "start"},
        {"time": 10.0, "event": "admitted", "version": 0},
        {"time": 12.0, "event": "trained", "version": 0},
        {"time": 15.0, "event": "trained", "version": 1},
        {"time": 15.1, "event": "trained", "version": 1},
    ]
    assert seconds_to_version(events, 2) == 5.0


def test_the_first_evaluation_at_the_goal_counts() -> None:
    evaluations = [
        {"version": v, "training_seconds": 10.0 * v, "win_rate": {"mean": mean}}
        for v, mean in ((6, 0.6), (12, 0.7), (18, 0.69), (24, 0.9))
    ]
    assert first_version_reaching(evaluations, 0.70) == 12
    assert time_to_goal(evaluations, 0.70) == 120.0
    assert first_version_reaching(evaluations, 0.95) is None
    assert time_to_goal(evaluations[:1], 0.70) is None


@pytest.mark.parametrize(("mean", "goal", "reason"), [(0.69, 0.7, None), (0.7, 0.7, REACHED), (0.9, None, None)])
def test_a_run_ends_at_the_first_evaluation_that_reaches_its_goal(
    mean: float, goal: float | None, reason: str | None
) -> None:
    assert reason_to_end({"evaluation": None}, goal) is None, "nothing is evaluated yet"
    assert reason_to_end({"evaluation": {"version": 6, "win_rate": {"mean": mean}}}, goal) == reason


def test_the_rate_of_the_other_trainer_is_that_of_its_median_step_after_warming_up() -> None:
    times = (90.0, 50.0, 4.0, 2.0, 1.0)
    lines: list[dict[str, Any]] = [{"kind": "step", "seconds": s, "completions": 16} for s in times]
    assert completions_per_second([{"kind": "log"}, *lines]) == 8.0


def test_the_timed_run_is_the_one_whose_rate_is_measured_with_evaluations_beside(tmp_path: Path) -> None:
    folder = str(make_llama(tmp_path / "llama", hidden=32, layers=1, vocabulary=400))
    rated, timed = config_of(folder, True, STEPS, {"seed": 1}), config_of(folder, True, STEPS, EVALUATION)
    assert timed.evaluation.every > 0
    assert timed.data.heldout
    same = {"seed": 1, "evaluation": rated.evaluation, "data": rated.data}
    assert timed.model_copy(update=same) == rated


def test_balancing_slows_the_faster_generation_down() -> None:
    assert next_sequences(32, generation=1.0, learning=2.0) == 16
    assert next_sequences(32, generation=2.0, learning=1.0) == 64
    assert next_sequences(32, generation=1.0, learning=100.0) == SEQUENCES[0]
    assert next_sequences(32, generation=100.0, learning=1.0) == SEQUENCES[1]


def test_judges_are_antisymmetric_and_prefer_what_they_say() -> None:
    warm, long = "I love this, thank you!", "I love this, thank you! " + "and so on " * 20
    for judge in (judges.sentiment_minus_length, judges.more_vowels, judges.demo_panel):
        assert judge("p", warm, warm) == 0.5
        assert judge("p", warm, long) + judge("p", long, warm) == 1.0
    assert judges.sentiment_minus_length("p", warm, long) == 1.0
    assert judges.sentiment_minus_length("p", warm, "I hate this.") == 1.0
    assert judges.more_vowels("p", "aeio", "xyz") == 1.0


def test_a_vocabulary_has_the_size_that_was_asked_for() -> None:
    for size in (300, 2000, 8192):
        vocabulary, merges = vocabulary_and_merges(size)
        assert len(vocabulary) == size == len(set(vocabulary.values()))
        assert all(a in vocabulary and b in vocabulary and a + b in vocabulary for a, b in merges)
    with pytest.raises(ValueError, match="vocabulary"):
        vocabulary_and_merges(10)


def test_learner_and_both_plain_loops_make_the_same_update(tmp_path: Path) -> None:
    """They are compared by speed, so they have to do the same work: same losses before and after an update."""
    torch.set_num_threads(1)
    folder = make_llama(tmp_path, hidden=32, layers=2, vocabulary=400)
    objective = {"options": {"candidates": 4, "beta": 0.1, "pair_choice": "all"}}
    config = configuration(folder, {"objective": objective, "learner": {"learning_rate": 1e-2}})
    groups = make_groups([[5, 6, 7], [8, 9], [10, 11, 12, 13]], 400, 12)
    assert len(all_pairs(groups)) == 18
    assert distinct_tokens(groups) == 4 * 9 + sum(len(c.token_ids) for g in groups for c in g.candidates)

    def policy() -> Policy:
        return Policy(config, str(folder), torch.device("cpu"))

    learner = Learner(config, policy(), build_objective(config.objective.name, config.objective.options))
    by_candidate, by_pair = PlainTrainer(config, policy(), 0.1), PlainTrainer(config, policy(), 0.1)
    for _ in range(3):
        losses = [
            learner.update(groups, alone)["loss"],
            by_candidate.step_by_candidate(groups, 2),
            by_pair.step_by_pair(groups, 4),
        ]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert losses[0] < 0.6  # 0.693 before the first update


def test_plane_and_bare_loop_give_the_same_rewards(tmp_path: Path) -> None:
    """They are compared by speed, so they have to compute the same."""
    folder = classifier(
        str(make_llama(tmp_path / "body", hidden=32, layers=1, vocabulary=400)), tmp_path / "c", "float32"
    )
    groups = make_reward_groups(5)
    texts = [(group.messages, candidate.text) for group in groups for candidate in group.candidates]
    panel = Panel(ScoringConfig.model_validate({"panel": [{"model": folder}]}))
    found = [panel.rewards(group.messages, [candidate.text for candidate in group.candidates]) for group in groups]
    ours = np.concatenate([rewards[:, 0] for rewards in found if rewards is not None])
    assert len(texts) == 40
    assert ours.tolist() == pytest.approx(BareLoop(folder, "float32").score(texts), abs=1e-4)
    assert ours.std() > 1e-3


def test_verdicts_that_were_asked_before_call_no_endpoint(tmp_path: Path) -> None:
    figures = {figure.name: figure for figure in cached_verdicts(tmp_path, turns=2)}
    assert figures["calls to the endpoint for what was asked before"].values == (0.0, 0.0)
    assert figures["calls to the endpoint for what was asked before"].met
