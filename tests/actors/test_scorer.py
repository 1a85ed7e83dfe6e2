"""A panel's verdict is the majority of its judges; a judge that misbehaves rejects the group and says how."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from actors.config import JudgeConfig, ScoringConfig
from actors.records import Group, GroupSummary, from_arrow, to_arrow
from actors.scorer import GOLD, Comparison, Panel, Rejection, Scorer, ScorerError, load_judge, prompt_text
from actors.scorers.state import ScoringState
from algorithms.ensembles import Standardisation
from algorithms.preference import cyclic_share
from tests.examples import candidate, group


def scoring(*judges: str, **changes: Any) -> ScoringConfig:
    return ScoringConfig(panel=tuple(f"tests.scripted_judges:{judge}" for judge in judges), **changes)


def of_texts(*texts: str, truncated: tuple[int, ...] = ()) -> Group:
    candidates = tuple(candidate([1, 2], text=text, truncated=k in truncated) for k, text in enumerate(texts))
    return replace(group(0, [1], [[2]] * len(texts)), candidates=candidates, preference=None, scorer=None)


def verdict(found: Group, *judges: str, **changes: Any) -> np.ndarray:
    return Panel(scoring(*judges, **changes)).matrix("question", found.candidates)


def score(scorer: Scorer, found: Group) -> tuple[GroupSummary, str, pa.RecordBatch]:
    # Ray's decorator types the method as a remote one; on the object itself it is an ordinary call.
    (summary, detail), batch = cast(Any, scorer).score(to_arrow([found]))
    return summary, detail, batch


def test_one_judge_keeps_its_probabilities() -> None:
    matrix = verdict(of_texts("aaa", "a", "bb"), "confident")
    np.testing.assert_allclose(matrix, [[0.5, 0.8, 0.8], [0.2, 0.5, 0.2], [0.2, 0.8, 0.5]])
    assert (matrix + matrix.T == 1).all()
    assert (matrix.diagonal() == 0.5).all()


def test_several_judges_vote() -> None:
    texts = of_texts("a!!!!", "aaa")
    assert verdict(texts, "longer")[0, 1] == 1
    assert verdict(texts, "more_letters")[0, 1] == 0
    assert verdict(texts, "longer", "more_letters")[0, 1] == 0.5
    assert verdict(texts, "longer", "more_letters", "confident")[0, 1] == 1


def test_the_majority_of_rankings_may_be_a_cycle() -> None:
    texts = of_texts("a", "b", "c")
    for judge in ("abc", "bca", "cab"):
        assert cyclic_share(verdict(texts, judge)) == 0
    matrix = verdict(texts, "abc", "bca", "cab")
    np.testing.assert_array_equal(matrix, [[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    assert cyclic_share(matrix) == 1


def test_a_judge_may_itself_be_intransitive() -> None:
    assert cyclic_share(verdict(of_texts("rock", "paper", "scissors"), "rock_paper_scissors")) == 1


@pytest.mark.parametrize(
    ("judge", "name", "detail"),
    [
        ("raises_on_empty", "scorer_error", "judge raises_on_empty raised ZeroDivisionError: no words to count"),
        ("no_number", "scorer_error", "judge no_number raised ValueError: could not convert string"),
        ("nan_judge", "invalid_preference", "judge nan_judge: .* nan .* is not a probability"),
        ("out_of_range", "invalid_preference", "judge out_of_range: .* is not a probability"),
        ("always_first", "invalid_preference", r"judge always_first: .* sum to 2.0, not 1 within"),
    ],
)
def test_a_judge_that_misbehaves_rejects_the_group_by_name(judge: str, name: str, detail: str) -> None:
    texts = of_texts("aaa", "", "bb")
    for panel in ([judge], ["longer", "more_letters", judge]):
        with pytest.raises(Rejection, match=detail) as raised:
            verdict(texts, *panel)
        assert raised.value.name == name
    scorer = Scorer("scorer-0", scoring("longer", judge))
    summary, said, batch = score(scorer, texts)
    assert summary.rejection == name
    assert judge in said
    assert from_arrow(batch)[0].preference is None, "a rejected group has no neutral score"


def test_a_bad_group_does_not_end_the_scorer() -> None:
    scorer = Scorer("scorer-3", scoring("raises_on_empty"))
    assert score(scorer, of_texts("a", ""))[0].rejection == "scorer_error"
    summary, detail, batch = score(scorer, of_texts("aaa", "b"))
    assert (summary.rejection, detail) == (None, "")
    scored = from_arrow(batch)[0]
    assert scored.scorer == "scorer-3"
    np.testing.assert_array_equal(scored.preference, [[0.5, 1], [0, 0.5]])


def test_truncation_costs_what_the_configuration_says() -> None:
    texts = of_texts("aaaa", "aa", "a", truncated=(0,))
    first_against_second = {
        penalty: verdict(texts, "longer", truncation_penalty=penalty)[0, 1] for penalty in (0.0, 0.25, 1.0)
    }
    assert first_against_second == {0.0: 1.0, 0.25: 0.75, 1.0: 0.0}
    panel = ("longer", "confident", "more_letters")
    assert verdict(texts, *panel, truncation_penalty=0.0)[0, 2] == 1
    assert verdict(texts, *panel, truncation_penalty=1.0)[0, 2] == 0
    assert verdict(texts, *panel)[0, 2] == 0, "a cut answer loses unless the configuration says otherwise"
    assert verdict(texts, *panel)[1, 2] == 1, "complete answers are compared as ever"


def test_judges_with_the_same_function_name_both_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other_judges.py").write_text("def longer(prompt, first, second):\n    return 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    panel = Panel(ScoringConfig(panel=("tests.scripted_judges:longer", "other_judges:longer")))
    members = panel.judged("question", of_texts("aaa", "a").candidates).members
    assert {name: matrix[0, 1] for name, matrix in members.items()} == {
        "tests.scripted_judges:longer": 1.0,
        "other_judges:longer": 0.5,
    }


def test_a_judge_has_one_vote() -> None:
    with pytest.raises(ScorerError, match="names a scorer twice"):
        Panel(scoring("longer", "longer", "more_letters"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.scripted_judges", "'tests.scripted_judges' is not of the form module:function"),
        ("tests.scripted_judges:", "is not of the form module:function"),
        ("tests.no_such_file:judge", "importing tests.no_such_file failed: ModuleNotFoundError"),
        ("tests.scripted_judges:warmness", r"tests.scripted_judges has no function 'warmness'; it has \['longer'"),
        ("tests.scripted_judges:not_a_function", "has no function 'not_a_function'"),
    ],
)
def test_a_judge_that_cannot_be_loaded_is_named(name: str, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        load_judge(name)
    with pytest.raises(ScorerError, match=message):
        Panel(ScoringConfig(panel=("tests.scripted_judges:longer", name)))


def test_a_module_that_fails_on_import_is_named_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_judges.py").write_text("raise OSError('no lexicon')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScorerError, match="importing broken_judges failed: OSError: no lexicon"):
        load_judge("broken_judges:judge")


def test_judges_read_the_last_question() -> None:
    messages = (
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "last"},
    )
    assert prompt_text(replace(of_texts("a", "b"), messages=messages)) == "last"
    assert prompt_text(replace(of_texts("a", "b"), messages=messages[:1])) == "rules"


def test_comparison_is_seen_from_the_new_policy() -> None:
    scorer = Scorer("scorer-0", scoring("longer", "more_letters", "confident"))
    start, final = of_texts("aa", "a!!", "x"), of_texts("aaaa", "aa", "y")
    found = scorer.compare(to_arrow([start]), to_arrow([final]))
    assert found.probability == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.ties == pytest.approx(1 / 3)
    assert found.judges["more_letters"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found.judges["confident"] == pytest.approx((0.8 + 0.2 + 0.5) / 3)
    assert (found.prompt, found.start, found.final) == ("question", "aa", "aaaa")
    assert found.length == 2


def test_comparing_a_policy_with_itself_gives_one_half() -> None:
    found = Scorer("s", scoring("longer")).compare(to_arrow([of_texts("aa", "b")]), to_arrow([of_texts("aa", "b")]))
    assert (found.probability, found.ties) == (0.5, 1.0)


def by_share(share: float, **changes: Any) -> ScoringConfig:
    judge = {"judge": "tests.scripted_judges:longer_by", "options": {"share": share}}
    return ScoringConfig.model_validate({"panel": [judge], **changes})


def labels(found: Group, config: ScoringConfig) -> np.ndarray:
    return np.asarray(from_arrow(score(Scorer("s", config), found)[2])[0].preference)


def test_a_judge_with_options_is_what_its_function_returns_for_them() -> None:
    texts = of_texts("aaa", "a")
    for share in (0.6, 0.9):
        assert Panel(by_share(share)).matrix("question", texts.candidates)[0, 1] == share
    panel = ScoringConfig(
        panel=tuple(
            JudgeConfig(judge="tests.scripted_judges:longer_by", options={"share": share}) for share in (0.6, 0.9)
        )
    )
    assert len(Panel(panel).names) == 2, "other options make another judge"


@pytest.mark.parametrize(
    ("options", "judge", "message"),
    [
        ({"part": 1}, "longer_by", "with options {'part': 1} failed: TypeError: .*unexpected keyword argument 'part'"),
        ({}, "no_such_judge", "has no function 'no_such_judge'"),
        ({"prompt": "", "first": "", "second": ""}, "longer", "returned float, not a judge"),
    ],
)
def test_options_that_a_judge_refuses_are_named(options: dict[str, Any], judge: str, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        load_judge(JudgeConfig(judge=f"tests.scripted_judges:{judge}", options=options))


def test_drawn_labels_have_the_judges_probability_and_belong_to_the_group() -> None:
    texts = of_texts("aaaa", "aaa", "aa", "a")
    drawn = [labels(replace(texts, id=f"g{i}"), by_share(0.75, labels="sampled")) for i in range(400)]
    for matrix in drawn:
        assert (matrix + matrix.T == 1).all()
        assert set(matrix[~np.eye(4, dtype=bool)].tolist()) <= {0.0, 1.0}
        assert (matrix.diagonal() == 0.5).all()
    shares = np.mean(drawn, axis=0)[np.triu_indices(4, 1)]
    assert np.abs(shares - 0.75).max() < 4 * np.sqrt(0.75 * 0.25 / 400)
    again = labels(replace(texts, id="g7"), by_share(0.75, labels="sampled"))
    np.testing.assert_array_equal(again, drawn[7])


def test_flips_turn_a_share_of_the_verdicts_around() -> None:
    texts = of_texts("aaaa", "a")
    assert labels(texts, by_share(0.9, flip_rate=0.25))[0, 1] == pytest.approx(0.75 * 0.9 + 0.25 * 0.1)
    certain = by_share(1.0, flip_rate=0.25, labels="sampled")
    reversed_share = np.mean([labels(replace(texts, id=f"g{i}"), certain)[0, 1] == 0 for i in range(400)])
    assert abs(reversed_share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


def test_noise_of_labels_leaves_evaluations_alone() -> None:
    scorer = Scorer("s", by_share(0.75, flip_rate=0.25, labels="sampled"))
    assert scorer.compare(to_arrow([of_texts("a")]), to_arrow([of_texts("aa")])).probability == 0.75


def test_a_scored_group_keeps_rewards_and_disagreement_and_its_summary_has_the_figures() -> None:
    panel = ["tests.scripted_judges:more_letters", {"reward": "tests.scripted_rewards:length"}]
    scorer = Scorer("s", ScoringConfig.model_validate({"panel": panel}))
    summary, _, batch = score(scorer, of_texts("a!!!!", "aaa"))
    scored = from_arrow(batch)[0]
    np.testing.assert_array_equal(scored.rewards, [[5.0], [3.0]])
    assert scored.disagreement == pytest.approx((1 / (1 + np.exp(-2.0))) / 2)
    figures = summary.scoring
    assert figures is not None
    assert (figures.disagreement, figures.rewards, figures.calls) == (scored.disagreement, (("length", 4.0),), 2)
    rejected, _, batch = score(Scorer("s", scoring("raises_on_empty")), of_texts("a", ""))
    assert (rejected.scoring, from_arrow(batch)[0].disagreement) == (None, None)


def test_the_state_comes_with_each_group() -> None:
    rewards = [{"reward": f"tests.scripted_rewards:{name}"} for name in ("length", "exclamation")]
    scorer = Scorer("s", ScoringConfig.model_validate({"panel": rewards, "combine": "worst_case"}))
    group_batch = to_arrow([of_texts("a!!!", "aaa")])
    names, samples = scorer.rewards(group_batch)
    assert names == ("length", "exclamation")
    np.testing.assert_array_equal(samples, [[4, 3], [3, 0]])
    state = ScoringState(standardisation=Standardisation.of(samples))
    (_, _), scored = cast(Any, scorer).score(group_batch, state)
    assert np.asarray(from_arrow(scored)[0].preference)[0, 1] == pytest.approx(1 / (1 + np.exp(-2.0)))
    compared = scorer.compare(to_arrow([of_texts("aaa")]), to_arrow([of_texts("a!!!")]), state)
    assert compared.probability == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert compared.judges["exclamation"] == pytest.approx(1 / (1 + np.exp(-2.0))), "on the common scale"


def test_start_answers_that_cannot_be_scored_give_no_samples() -> None:
    rewards = ScoringConfig.model_validate({"panel": [{"reward": "tests.scripted_rewards:raises_on_empty"}]})
    assert Scorer("s", rewards).rewards(to_arrow([of_texts("a", "")]))[1].shape == (0, 1)
    assert Scorer("s", scoring("longer")).rewards(to_arrow([of_texts("a", "b")]))[1].shape == (0, 1)


# Gold scorers


def compared(first: str, second: str, config: ScoringConfig) -> Comparison:
    """A policy that wrote the second text, against a start that wrote the first."""
    start, current = (to_arrow([of_texts(text)]) for text in (first, second))
    found: Comparison = cast(Any, Scorer("scorer", config)).compare(start, current)
    return found


def test_gold_scorers_judge_evaluations_and_nothing_else() -> None:
    with_gold = scoring("longer", gold=("tests.scripted_judges:more_letters",))
    found = compared("aaa", "a!!!!", with_gold)
    assert (found.probability, found.gold) == (1.0, 0.0)
    assert found.judges == {"longer": 1.0, GOLD: 0.0}
    without = compared("aaa", "a!!!!", scoring("longer"))
    assert (without.probability, without.gold, set(without.judges)) == (1.0, None, {"longer"})
    texts = of_texts("aaa", "a!!!!", "bb")
    trained = [score(Scorer("scorer", config), texts)[2] for config in (with_gold, scoring("longer"))]
    assert trained[0].equals(trained[1])


def test_gold_scorers_are_checked_with_the_panel() -> None:
    with pytest.raises(ScorerError, match="no function 'taller'"):
        Panel(scoring("longer", gold=("tests.scripted_judges:taller",)))
    votes = Panel(scoring("longer", gold=tuple(f"tests.scripted_judges:{name}" for name in ("abc", "bca", "cab"))))
    assert votes.gold is not None
    assert votes.gold.gold is None
    assert cyclic_share(votes.gold.matrix("question", of_texts("a", "b", "c").candidates)) == 1
