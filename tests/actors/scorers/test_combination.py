"""Every rule of a panel by hand, and what has to be there before a rule can be applied."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from actors.records import Candidate
from actors.scorer import Panel, Rejection, ScorerError
from actors.scorers.config import ScoringConfig
from actors.scorers.state import ScoringState
from algorithms.ensembles import Standardisation
from algorithms.reward_weights import Multipliers
from tests.examples import candidate

REWARDS = [{"reward": "tests.scripted_rewards:length"}, {"reward": "tests.scripted_rewards:exclamation"}]
RAW: dict[str, Any] = {"standardise": False}


def panel(rule: Any, *entries: Any, **changes: Any) -> Panel:
    return Panel(ScoringConfig.model_validate({"panel": entries or REWARDS, "combine": rule} | changes))


def texts(*responses: str) -> tuple[Candidate, ...]:
    return tuple(candidate([1], text=response) for response in responses)


def log_odds(rule: Any, *responses: str, state: ScoringState | None = None) -> float:
    """Of the first response against the second."""
    matrix = panel(rule).matrix("question", texts(*responses), state or ScoringState())
    assert (matrix + matrix.T == 1).all()
    return float(np.log(matrix[0, 1] / matrix[1, 0]))


def test_a_reward_compares_pairs_by_bradley_terry() -> None:
    matrix = panel("majority", REWARDS[0]).matrix("question", texts("aaa", "a", "aa"))
    np.testing.assert_allclose(matrix, expit([[0, 2, 1], [-2, 0, -1], [-1, 1, 0]]))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Rewards (4, 3) against (3, 0): means 3.5 and 1.5, minima 3 and 0, variances 0.25 and 2.25.
        ({"rule": "mean"}, 2.0),
        ({"rule": "worst_case"}, 3.0),
        ({"rule": "uncertainty", "penalty": 0.5}, 2.0 + 1.0),
        ({"rule": "uncertainty", "penalty": 0.0}, 2.0),
        ({"rule": "direction", "direction": [3, 4]}, (3 * 1 + 4 * 3) / 5),
        ({"rule": "direction", "direction": [0, -1]}, -3.0),
        # The distances to the group's mean are (0.5, 1.5) and (-0.5, -1.5).
        ({"rule": "pama"}, 1.0),
        ({"rule": "mean", "temperature": 4.0}, 0.5),
    ],
    ids=str,
)
def test_rules_of_rewards_by_hand(rule: dict[str, Any], expected: float) -> None:
    assert log_odds(rule | RAW, "a!!!", "aaa") == pytest.approx(expected)


def test_pama_neither_rewards_nor_punishes_what_objectives_disagree_about() -> None:
    assert log_odds({"rule": "pama"} | RAW, "aaaaa", "!!!") == 0.0


def test_lagrangian_weights_come_with_the_state() -> None:
    rule = {"rule": "lagrangian", "thresholds": [1.0, 1.0]} | RAW
    start = ScoringState.start(panel(rule)._config)
    # Weights 1/2 and 1/2 leave 2 - 1 to the KL term.
    assert log_odds(rule, "a!!!", "aaa", state=start) == pytest.approx((0.5 * 1 + 0.5 * 3) / 1.0)
    state = ScoringState(multipliers=Multipliers(values=np.array([-50.0, 0.0]), velocity=np.zeros(2)))
    assert log_odds(rule, "a!!!", "aaa", state=state) == pytest.approx(0.5 * 3 / 1.5)
    figures = panel(rule).judged("question", texts("a!!!", "aaa"), start).figures
    assert figures.weights == (("length", 0.5), ("exclamation", 0.5))
    assert figures.rewards == (("length", 3.5), ("exclamation", 1.5))


def test_standardised_members_have_one_scale() -> None:
    state = ScoringState(standardisation=Standardisation(mean=np.array([3.0, 0.0]), deviation=np.array([2.0, 1.0])))
    # (4, 3) becomes (0.5, 3) and (3, 0) becomes (0, 0).
    assert log_odds("worst_case", "a!!!", "aaa", state=state) == pytest.approx(0.5)
    assert log_odds("mean", "a!!!", "aaa", state=state) == pytest.approx(1.75)
    units = [{"reward": "tests.scripted_rewards:times", "options": {"factor": 100.0}}, REWARDS[1]]
    hundredfold = Standardisation(mean=np.array([300.0, 0.0]), deviation=np.array([200.0, 1.0]))
    found = panel("worst_case", *units).matrix("q", texts("a!!!", "aaa"), ScoringState(standardisation=hundredfold))
    assert found[0, 1] == pytest.approx(expit(0.5))


def test_without_the_start_there_is_no_scale() -> None:
    with pytest.raises(ScorerError, match="standardises its members on answers of the policy that training starts"):
        log_odds("worst_case", "a", "b")


def test_weights_count_votes_in_proportion() -> None:
    judges = ["tests.scripted_judges:longer", "tests.scripted_judges:more_letters", "tests.scripted_judges:confident"]
    found = panel({"rule": "weighted", "weights": [2, 1, 1]}, *judges).matrix("q", texts("a!!!!", "aaa"))
    assert found[0, 1] == pytest.approx((2 * 1.0 + 0.0 + 0.8) / 4)
    equal = panel({"rule": "weighted", "weights": [5, 5, 5]}, *judges).matrix("q", texts("a!!!!", "aaa"))
    assert equal[0, 1] == pytest.approx(1.8 / 3)


def test_judges_and_rewards_vote_together() -> None:
    mixed = ["tests.scripted_judges:more_letters", *REWARDS]
    found = panel("majority", *mixed).judged("q", texts("a!!!!", "aaa"))
    assert found.preference[0, 1] == 1.0
    assert list(found.members) == ["more_letters", "length", "exclamation"]
    assert found.rewards is not None
    np.testing.assert_array_equal(found.rewards, [[5, 4], [3, 0]])
    assert found.figures.calls == 2


def test_members_disagree_on_the_scale_that_they_are_compared_on() -> None:
    state = ScoringState(standardisation=Standardisation(mean=np.array([3.0, 0.0]), deviation=np.array([1.0, 3.0])))
    # (4, 3) becomes (1, 1) and (3, 0) becomes (0, 0): the members say the same.
    found = panel("mean").judged("q", texts("a!!!", "aaa"), state)
    assert found.figures.disagreement == pytest.approx(0.0)
    for member in found.members.values():
        np.testing.assert_allclose(member, found.preference)
    assert panel("majority").judged("q", texts("a!!!", "aaa")).figures.disagreement > 0.1


def test_disagreement_is_recorded() -> None:
    judges = ["tests.scripted_judges:longer", "tests.scripted_judges:more_letters"]
    assert panel("majority", *judges).judged("q", texts("a!!!!", "aaa")).figures.disagreement == 0.5
    assert panel("majority", *judges).judged("q", texts("aaaaa", "aaa")).figures.disagreement == 0.0


@pytest.mark.parametrize(("plan", "meetings"), [("all", 28), ("tournament", 7), ("sparse", 16)])
def test_fewer_pairs_are_fewer_calls(plan: str, meetings: int) -> None:
    judged = panel("majority", "tests.scripted_judges:longer", pairs=plan).judged(
        "q", texts(*("a" * n for n in range(1, 9)))
    )
    assert judged.figures.calls == 2 * meetings
    assert (judged.preference + judged.preference.T == 1).all()


def test_the_degree_of_a_sparse_graph_is_an_option() -> None:
    sparse = {"pairs": "sparse", "degree": 6}
    judged = panel("majority", "tests.scripted_judges:longer", **sparse).judged("q", texts(*"abcdefgh"))
    assert judged.figures.calls == 2 * 24


@pytest.mark.parametrize(
    ("rule", "entries", "message"),
    [
        ("mean", [REWARDS[0], "tests.scripted_judges:longer"], "longer compares pairs; combine it by majority"),
        ({"rule": "weighted", "weights": [1]}, REWARDS, "weights has 1 numbers, .* members are length, exclamation"),
        ({"rule": "direction", "direction": [1, 0, 0]}, REWARDS, "direction has 3 numbers"),
        ({"rule": "lagrangian", "thresholds": [1]}, REWARDS, "thresholds has 1 numbers"),
        ("majority", [REWARDS[0], REWARDS[0]], "names a scorer twice"),
        ("majority", [{"reward": "tests.scripted_rewards:no"}], "has no function 'no'; it has"),
        ("majority", [{"reward": "tests.scripted_rewards:times", "options": {"x": 1}}], "failed: TypeError"),
    ],
)
def test_panels_that_cannot_be_are_refused(rule: Any, entries: list[Any], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        panel(rule, *entries)


@pytest.mark.parametrize(
    ("reward", "name", "message"),
    [
        ("raises_on_empty", "scorer_error", "reward raises_on_empty raised ZeroDivisionError"),
        ("no_number", "invalid_reward", "reward no_number is inf"),
    ],
)
def test_a_reward_that_misbehaves_rejects_the_group(reward: str, name: str, message: str) -> None:
    for rule in ("majority", {"rule": "mean"} | RAW):
        with pytest.raises(Rejection, match=message) as raised:
            panel(rule, {"reward": f"tests.scripted_rewards:{reward}"}).matrix("q", texts("a", ""))
        assert raised.value.name == name


def test_responses_that_are_empty_or_equal_tie() -> None:
    for rule in ("majority", *({"rule": name} | RAW for name in ("mean", "worst_case", "uncertainty", "pama"))):
        assert (panel(rule).matrix("q", texts("", "", "")) == 0.5).all()
