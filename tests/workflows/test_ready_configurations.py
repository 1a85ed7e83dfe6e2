"""The five configurations beside the demo may be compared: they differ in the objective, not in what it is given."""

from pathlib import Path

import pytest

from actors.config import AlignConfig
from workflows.config import ConfigError, load_config, objective_of
from workflows.round_robin import differing_keys

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
COMPARED = ("online_dpo", "dno", "egpo", "sppo", "inpo")
FIRST = load_config(CONFIGS / "online_dpo.yaml")


def judged_completions(config: AlignConfig) -> int:
    return config.loop.steps * config.loop.batch * objective_of(config).sampling.candidates


@pytest.mark.parametrize("name", COMPARED)
def test_compared_runs_are_given_the_same(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.objective.name == name
    assert judged_completions(config) == judged_completions(FIRST)
    assert differing_keys(config, FIRST) == []
    assert (config.data, config.learner.lora, config.seed) == (FIRST.data, FIRST.learner.lora, FIRST.seed)


@pytest.mark.parametrize("name", COMPARED)
def test_each_method_has_a_configuration_for_a_cluster(name: str) -> None:
    config = load_config(CONFIGS / "cluster" / f"{name}-8b.yaml")
    assert config.objective.name.startswith(name)
    assert config.learner.gpus == config.rollout.gpus == 1


def test_a_plan_with_a_teacher_needs_one() -> None:
    path = CONFIGS / "cluster" / "dno-8b.yaml"
    with pytest.raises(ConfigError, match=r"dno_prct asks the policy `teacher`.*teacher\.model"):
        load_config(path, ["teacher=null"])
    with pytest.raises(ConfigError, match="asks the configured teacher for nothing"):
        load_config(path, ["objective.options.teacher_candidates=0"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.max_calls=null", "needs max_calls"),
        ("teacher.engine={}", "an endpoint or an engine, not both"),
        ("teacher.endpoint=null", "name the endpoint"),
        ("teacher.endpoint=ftp://host", r"teacher\.endpoint = 'ftp://host'"),
        ("teacher.max_call=3", r"unknown key teacher\.max_call; did you mean teacher\.max_calls\?"),
    ],
)
def test_an_impossible_teacher_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "cluster" / "dno-8b.yaml", [override])
