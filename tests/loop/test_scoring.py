"""A whole run on an ensemble of reward models, and one whose objectives' weights move and survive a crash."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.records import SCHEMA, from_arrow
from actors.scorer import GOLD, Panel
from algorithms.ensembles import Standardisation, bradley_terry, disagreement, uncertainty_weighted
from algorithms.reward_weights import Multipliers
from tests.loop.support import Outcome, Runs, half_way
from tests.preference_models import make_classifier
from workflows.align import align

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GOLD_JUDGE = "tests.scripted_judges:longer"
LAGRANGIAN: dict[str, Any] = {"rule": "lagrangian", "thresholds": [6.0, 12.0], "learning_rate": 0.2, "momentum": 0.5}


class Crash(Exception):
    """Ends a run from outside."""


@pytest.fixture(scope="module")
def begun(runs: Runs, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> "Future[Outcome]":
    """Three members: two heads of a model that is read from its folder, and a function. Runs beside the other one."""
    folder = make_classifier(tiny_model, tmp_path_factory.mktemp("rewards") / "heads", outputs=2)
    panel = [{"model": str(folder)}, {"reward": "tests.scripted_rewards:letters"}]
    scoring = {"panel": panel, "combine": {"rule": "uncertainty", "penalty": 0.5}, "scorers": 2, "gold": [GOLD_JUDGE]}
    return runs.start("ensemble", scoring=scoring, loop={"steps": 4, "eta": 1})


@pytest.fixture(scope="module")
def ensemble(begun: "Future[Outcome]") -> Outcome:
    """The first run, ended."""
    return begun.result()


@pytest.fixture(scope="module")
def resumed(runs: Runs, begun: "Future[Outcome]") -> Outcome:
    """Two objectives; ended half-way and started again from a checkpoint."""
    panel = [{"reward": f"tests.scripted_rewards:{name}"} for name in ("slow_letters", "length")]
    config = runs.config("objectives", scoring={"panel": panel, "combine": LAGRANGIAN})

    def crash(status: dict[str, Any]) -> None:
        if half_way(runs.folder / "objectives"):
            raise Crash

    with pytest.raises(Crash):
        align(config, watch=crash)
    return runs.run(config).succeeded()


def test_weights_move_once_a_round_and_survive_a_crash(resumed: Outcome) -> None:
    (event,) = resumed.events("resumed")
    assert event["version"] in (2, 4)
    expected, lines = Multipliers.start(2), resumed.metrics("step")
    assert [line["version"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert [line["weight/slow_letters"], line["weight/length"]] == pytest.approx(
            expected.weights("sigmoid").tolist()
        )
        returns = [line["reward/slow_letters"], line["reward/length"]]
        expected = expected.updated(returns, LAGRANGIAN["thresholds"], "sigmoid", 0.2, 0.5)
    assert lines[-1]["weight/slow_letters"] != 0.5


def test_a_policy_is_trained_on_what_its_ensemble_agrees_about(ensemble: Outcome) -> None:
    """Every stored matrix follows from the stored rewards, and from the scale of the start's stored answers."""
    panel = Panel(ensemble.succeeded().config.scoring)
    start = from_arrow(pq.read_table(ensemble.path / "start.parquet", schema=SCHEMA))
    found = [panel.rewards(group.messages, [c.text for c in group.candidates]) for group in start]
    scale = Standardisation.of(np.concatenate([rewards for rewards in found if rewards is not None]))
    trained = [group for _, group in ensemble.trained()]
    assert len(trained) == 16
    for group in trained:
        assert group.rewards is not None
        assert group.preference is not None
        texts = [candidate.text for candidate in group.candidates]
        again = panel.rewards(group.messages, texts)
        assert again is not None
        np.testing.assert_allclose(group.rewards, again, atol=1e-5)
        scaled = scale.apply(group.rewards)
        expected = bradley_terry(uncertainty_weighted(scaled, 0.5))
        np.testing.assert_allclose(group.preference, expected, atol=1e-4)
        assert (group.preference + group.preference.T == 1).all()
        members = np.stack([bradley_terry(column) for column in scaled.T])
        assert group.disagreement == pytest.approx(disagreement(members), abs=1e-4)
    assert len({group.scorer for group in trained}) == 2


def test_disagreement_and_rewards_are_in_the_metrics(ensemble: Outcome) -> None:
    trained = ensemble.succeeded().trained()
    for line in ensemble.metrics("step"):
        groups = [group for version, group in trained if version == line["version"] - 1]
        assert line["disagreement"] == pytest.approx(np.mean([group.disagreement for group in groups]))
        for column, name in enumerate(("heads/head_0", "heads/head_1", "letters")):
            rewards = [group.rewards[:, column] for group in groups if group.rewards is not None]
            assert line[f"reward/{name}"] == pytest.approx(np.mean(rewards))
        assert line["judge_calls"] == 0
    evaluation = ensemble.metrics("evaluation")[-1]
    judges = evaluation["judges"]
    assert set(judges) == {"heads/head_0", "heads/head_1", "letters", GOLD}
    assert judges[GOLD] == pytest.approx(evaluation["gold_win_rate"]["mean"])
    assert evaluation["gold_win_rate"]["n"] == evaluation["win_rate"]["n"] == 12
    assert ensemble.summary["gold_win_rate"] == evaluation["gold_win_rate"]
