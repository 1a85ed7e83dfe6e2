"""The kind of a scorer is the key that names it; a rule is its name, or a tree; faults are named with their place."""

from typing import Any

import pytest

from actors.scorers.config import (
    JudgeConfig,
    LanguageModelJudgeConfig,
    Majority,
    ModelScorerConfig,
    RewardConfig,
    ScoringConfig,
    Uncertainty,
)
from tests.examples import tree
from workflows.config import ConfigError, parse_config

JUDGE = "tests.scripted_judges:longer"
ENDPOINT = {"llm_judge": "large", "endpoint": "http://127.0.0.1:9/v1", "max_calls": 10}


def scoring(**keys: Any) -> ScoringConfig:
    return ScoringConfig.model_validate({"panel": [JUDGE]} | keys)


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_config(tree(**changes))
    return str(raised.value)


def test_the_key_names_the_kind() -> None:
    panel = scoring(
        panel=[
            JUDGE,
            {"judge": "a:b", "options": {"x": 1}},
            {"reward": "a:c"},
            {"model": "folder", "heads": ["warmth", 1]},
            ENDPOINT,
        ]
    ).panel
    kinds = [str, JudgeConfig, RewardConfig, ModelScorerConfig, LanguageModelJudgeConfig]
    assert [type(entry) for entry in panel] == kinds


@pytest.mark.parametrize(
    "keys",
    [
        {"panel": [JUDGE, {"judge": "a:b"}, {"reward": "a:c", "options": {}}, {"model": "folder"}, ENDPOINT]},
        {"combine": "pama"},
        {"combine": {"rule": "lagrangian", "thresholds": [0.5], "squash": "tanh"}},
    ],
    ids=str,
)
def test_what_was_resolved_reads_as_the_same(keys: dict[str, Any]) -> None:
    config = scoring(**keys)
    assert ScoringConfig.model_validate(config.model_dump(mode="json")) == config
    assert ScoringConfig.model_validate(config.model_dump()) == config


def test_a_rule_is_its_name_or_a_tree() -> None:
    assert scoring().combine == scoring(combine="majority").combine == Majority()
    assert scoring(combine="uncertainty").combine == Uncertainty(penalty=0.5)
    assert scoring(combine={"rule": "uncertainty", "penalty": 2}).combine == Uncertainty(penalty=2.0)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"scoring__panel": [{"head": 0}]}, ["scoring.panel.0", "keys judge, reward, model, llm_judge"]),
        ({"scoring__panel": [{"model": "x", "windw": 8}]}, ["panel.0.model", "key windw; did you mean window?"]),
        ({"scoring__panel": [JUDGE, {"reward": "a:b", "option": {}}]}, ["panel.1", "did you mean options?"]),
        (
            {"scoring__panel": [{"model": "x", "truncation_side": "up"}]},
            ["truncation_side = 'up'", "'left' or 'right'"],
        ),
        ({"scoring__panel": [ENDPOINT | {"endpoint": "large"}]}, ["endpoint = 'large'", "pattern"]),
        ({"scoring__panel": [{"llm_judge": "x"}]}, ["a judge has an endpoint or an engine: name one of them"]),
        ({"scoring__panel": [ENDPOINT | {"engine": {}}]}, ["a judge has an endpoint or an engine: name one of them"]),
        ({"scoring__panel": [ENDPOINT | {"max_calls": None}]}, ["a judge at an endpoint needs max_calls"]),
        ({"scoring__panel": [{"llm_judge": "x", "engine": {}, "max_calls": 1}]}, ["belong to a judge at an endpoint"]),
        ({"scoring__panel": [{"llm_judge": "x", "engine": {"kv": 1}}]}, ["unknown key kv; did you mean kv_cache_gib?"]),
        ({"scoring__combine": "majorty"}, ["scoring.combine", "'majorty'", "'majority'"]),
        ({"scoring__combine": {"rule": "uncertainty", "penlty": 1}}, ["key penlty; did you mean penalty?"]),
        ({"scoring__combine": {"rule": "uncertainty", "penalty": -1}}, ["penalty = -1", "greater than or equal to 0"]),
        ({"scoring__combine": {"rule": "weighted", "weights": [1, 0]}}, ["weights.1 = 0", "greater than 0"]),
        ({"scoring__pairs": "some"}, ["scoring.pairs = 'some'", "'all', 'tournament' or 'sparse'"]),
        ({"scoring__degree": 1}, ["scoring.degree = 1", "greater than or equal to 2"]),
    ],
)
def test_a_fault_is_named_with_its_place(changes: dict[str, Any], parts: list[str]) -> None:
    message = refusal(**changes)
    for part in parts:
        assert part in message
    assert "\n" not in message


def test_one_scale_needs_held_out_prompts_before_anything_starts() -> None:
    changes: dict[str, Any] = {"scoring__panel": [{"reward": "tests.scripted_rewards:length"}]}
    message = refusal(scoring__combine="worst_case", **changes)
    assert "data.heldout names no file of them; name one, or set standardise: false in scoring.combine" in message
    parse_config(tree(scoring__combine="worst_case", data__heldout="heldout.jsonl", **changes))
    parse_config(tree(scoring__combine={"rule": "worst_case", "standardise": False}, **changes))
    parse_config(tree(scoring__combine="majority", **changes))


def test_gold_scorers_need_evaluations_and_are_held_to_the_same() -> None:
    assert "scoring.gold judges evaluations, but data.heldout names no file" in refusal(scoring__gold=[ENDPOINT])
    message = refusal(scoring__gold=[ENDPOINT | {"group_deadline": 60}], data__heldout="heldout.jsonl")
    assert "group_deadline = 60 s" in message
    found = parse_config(tree(scoring__gold=["tests.scripted_judges:longer"], data__heldout="heldout.jsonl")).scoring
    assert found.held_out is not None
    assert found.held_out.panel == ("tests.scripted_judges:longer",)
    assert found.held_out.truncation_penalty == found.truncation_penalty
    assert parse_config(tree()).scoring.held_out is None


def test_a_judge_may_not_take_longer_than_its_scorer_may() -> None:
    message = refusal(scoring__panel=[ENDPOINT | {"group_deadline": 60}])
    assert "group_deadline = 60 s" in message
    assert "deadlines.score = 60" in message
    parse_config(tree(scoring__panel=[ENDPOINT | {"group_deadline": 60}], deadlines={"score": 61}))
