"""The two commands on tables with a known law: found, checked, continued as a configuration, or refused."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from algorithms.scaling import LAWS
from algorithms.scaling.annealing import annealing_factors
from algorithms.schedules import learning_rate_factor
from tests.workflows.scaling_law.tables import A, B, best_rate, sweep_rows, write
from workflows.config import parse_config
from workflows.scaling_law.__main__ import main, parser, question
from workflows.scaling_law.record import write_record
from workflows.scaling_law.study import Study, answer
from workflows.scaling_law.table import TableError, read_tables

EGPO = Path(__file__).resolve().parents[3] / "configs" / "egpo.yaml"
STEP = ("--law", "step", "--group", "N,D", "--resamples", "30")
Printed = pytest.CaptureFixture[str]


def studied(tables: Sequence[Path], *arguments: str) -> list[Study]:
    """What `fit` finds, before it writes the report; `law.json` lies beside the first table."""
    asked = question(parser().parse_args(["fit", *map(str, tables), *arguments]))
    studies = answer(asked, read_tables(asked.tables))
    write_record(tables[0].parent, studies, tables)
    return studies


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit to a sweep of learning rates."""
    folder = tmp_path_factory.mktemp("fitted")
    rows = sweep_rows()
    rows[3] |= {"status": "stopped_early", "win_rate": 0.99}
    table = write(folder / "trials.csv", rows)
    assert main(["fit", str(table), *STEP, "--output", str(folder)]) == 0
    return folder


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "law.json").read_text())["laws"][0]
    return found


def predict(folder: Path, *arguments: str) -> int:
    return main(["predict", "--fit", str(folder / "law.json"), *arguments])


def test_the_law_of_the_learning_rate_is_found(fitted: Path) -> None:
    found = record(fitted)
    assert found["outcome"] == "learner.learning_rate"
    assert (found["metric"], found["mode"]) == ("win_rate", "max")
    assert found["parameters"]["a"] == pytest.approx(A, abs=0.05)
    assert found["parameters"]["b"] == pytest.approx(B, abs=0.05)
    for name, truth in (("a", A), ("b", B)):
        low, high = found["intervals"][name]
        assert low <= truth <= high
    assert len(found["measured"]) == 10
    assert "1 of 180 trials left out: 1 stopped_early." in found["notes"]


def test_the_largest_size_was_held_out_and_its_optimum_predicted(fitted: Path) -> None:
    check = record(fitted)["check"]
    assert check["rows"] == 2
    assert check["mean_error"] < 0.15
    assert check["covered"] == 1.0
    assert 0.0 <= check["excess"] < 1e-3


def test_the_check_has_not_seen_what_it_predicts(tmp_path: Path) -> None:
    """The largest models want a rate three times larger than the law of the others."""
    rows = sweep_rows()
    largest = [row for row in rows if row["model_parameters"] == 1e7]
    others = [row for row in rows if row["model_parameters"] != 1e7]
    for row in largest:
        row["learner.learning_rate"] *= 3.0
    (found,) = studied([write(tmp_path / "t.csv", rows)], *STEP)
    (without,) = studied([write(tmp_path / "others.csv", others)], *STEP)
    assert found.check is not None
    assert found.check.fit.parameters == pytest.approx(without.fit.parameters, rel=0.01)
    assert found.check.errors == pytest.approx([-2 / 3, -2 / 3], abs=0.06)
    assert found.check.covered == 0.0
    assert found.check.excess == pytest.approx(0.02 * math.log(3.0) ** 2, rel=0.2)


def test_the_next_configuration_is_valid_and_says_how_sure_it_is(fitted: Path, capsys: Printed) -> None:
    assert predict(fitted, "--N", "5e7", "--D", "1e8", "--config", str(EGPO)) == 0
    text = capsys.readouterr().out
    tree, base = yaml.safe_load(text), yaml.safe_load(EGPO.read_text())
    rate = tree["learner"].pop("learning_rate")
    assert rate == pytest.approx(best_rate(5e7, 1e8), rel=0.2)
    base["learner"].pop("learning_rate")
    assert tree == base
    parse_config(yaml.safe_load(text))
    line = next(line for line in text.splitlines() if "95% interval" in line)
    low, high = (float(number) for number in line.split("interval ")[1].split(" to "))
    assert low < rate < high
    proposals = [line for line in text.splitlines() if ": by " in line]
    assert len({line.split(": by ")[0] for line in proposals}) == 3
    assert "N = 2.24e+07" in proposals[0]


def test_far_beyond_the_data_it_answers_only_when_told_to(fitted: Path, capsys: Printed) -> None:
    """The largest model has 1e7 parameters."""
    asked = ("--N", "8e9", "--D", "1e7", "--config", str(EGPO))
    assert predict(fitted, *asked) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "N = 8e+09 is 800 times outside the fitted range 1e+05 to 1e+07" in error
    assert "--extrapolate" in error
    assert predict(fitted, *asked, "--extrapolate") == 0
    assert "learning_rate" in capsys.readouterr().out


def test_without_a_configuration_the_setting_alone_is_printed(fitted: Path, capsys: Printed) -> None:
    assert predict(fitted, "--N", "1e7", "--D", "1e7") == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found == {"learner.learning_rate": pytest.approx(best_rate(1e7, 1e7), rel=0.2)}


def test_the_report_holds_every_figure_and_loads_nothing(fitted: Path) -> None:
    page = (fitted / "report.html").read_text()
    assert page.count("<figure>") == 4
    assert page.count("<svg") == 4
    for value in record(fitted)["parameters"].values():
        assert f'value="{value}"' in page
    assert "1 of 180 trials left out" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_whole_number_stays_one_and_a_shift_is_taken_back(tmp_path: Path, capsys: Printed) -> None:
    """Best staleness: eta + 1 = 0.02 N^0.4 batches, tuned over eta = 0, 1, 2, 3, 5, ..."""
    rows = []
    for N in (1e5, 3e5, 1e6, 3e6):
        for batches in (1, 2, 3, 4, 6, 8, 12, 16, 24):
            win_rate = 0.7 - 0.02 * math.log(batches / (0.02 * N**0.4)) ** 2
            rows.append({"N": N, "loop.eta": batches - 1, "win_rate": win_rate})
    table = write(tmp_path / "t.csv", rows)
    studied([table], "--law", "step", "--group", "N", "--tune", "eta", "--resamples", "30")
    assert predict(tmp_path, "--N", "5e6", "--config", str(EGPO)) == 0
    assert yaml.safe_load(capsys.readouterr().out)["loop"]["eta"] == round(0.02 * 5e6**0.4 - 1)


def test_two_settings_make_two_laws_with_factors_of_their_own(tmp_path: Path, capsys: Printed) -> None:
    """They are tuned together: every learning rate with five betas around 300 N^-0.5."""
    rows = []
    for row in sweep_rows():
        best = 300 * row["model_parameters"] ** -0.5
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            lost = 0.03 * (math.log(factor) - 0.2) ** 2
            rows.append({**row, "objective.options.beta": best * factor, "win_rate": row["win_rate"] - lost})
    studied([write(tmp_path / "t.csv", rows)], *STEP, "--tune", "learning_rate", "beta:N")
    assert predict(tmp_path, "--N", "1e7", "--D", "1e7", "--config", str(EGPO)) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert tree["learner"]["learning_rate"] == pytest.approx(best_rate(1e7, 1e7), rel=0.2)
    assert tree["objective"]["options"]["beta"] == pytest.approx(300 * math.exp(0.2) * 1e7**-0.5, rel=0.1)


def test_a_minimum_is_found_where_a_loss_is_the_metric(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [{**row, "loss": 3.0 - row["win_rate"]} for row in sweep_rows()])
    (found,) = studied([table], *STEP, "--metric", "loss")
    (same,) = studied([table], *STEP, "--metric", "win_rate")
    assert (found.mode, same.mode) == ("min", "max")
    assert found.fit.parameters == pytest.approx(same.fit.parameters, rel=1e-6)
    with pytest.raises(TableError, match="none of the 10 groups shows an optimum"):
        studied([table], *STEP, "--metric", "loss", "--mode", "max")


def test_fewer_neighbours_keep_the_law_clear_of_a_cliff(tmp_path: Path) -> None:
    """Beyond five times the best rate a run collapses."""
    rows = sweep_rows()
    for row in rows:
        if row["learner.learning_rate"] > 5.0 * best_rate(row["model_parameters"], row["tokens"]):
            row["win_rate"] = 0.0
    table = write(tmp_path / "t.csv", rows)
    found = {few: studied([table], *STEP, "--neighbours", few)[0].measurements for few in ("2", "3")}
    true = {
        few: [best_rate(*values) for values in zip(*each.factors.values(), strict=True)] for few, each in found.items()
    }
    assert found["2"].outcome == pytest.approx(true["2"], rel=0.15)
    assert (found["3"].outcome < 0.85 * np.array(true["3"])).any()


def test_a_shared_curvature_finds_the_law_that_noise_hides_from_single_groups(tmp_path: Path) -> None:
    rows, generator = sweep_rows(), np.random.default_rng(1)
    for row in rows:
        row["win_rate"] += 0.1 * float(generator.standard_normal())
    table = write(tmp_path / "trials.csv", rows)
    with pytest.raises(TableError, match="groups show an optimum"):
        studied([table], *STEP)
    (shared,) = studied([table], *STEP, "--curvature", "shared")
    assert len(shared.measurements.outcome) == 10
    low, high = shared.fit.intervals()[1]
    assert low <= A <= high
    assert high < 0.0
    assert "one curvature" in shared.notes[0]


def test_the_shared_curvature_of_the_check_is_not_that_of_the_held_out(tmp_path: Path) -> None:
    rows = sweep_rows()
    before = studied([write(tmp_path / "before.csv", rows)], *STEP, "--curvature", "shared")[0]
    for row in rows:
        if row["model_parameters"] == 1e7:
            row["win_rate"] = 0.7 - 3.0 * (0.7 - row["win_rate"])
    after = studied([write(tmp_path / "after.csv", rows)], *STEP, "--curvature", "shared")[0]
    assert before.check
    assert after.check
    assert after.check.fit.parameters.tolist() == before.check.fit.parameters.tolist()
    assert after.fit.parameters.tolist() != before.fit.parameters.tolist()


def test_too_few_groups_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", sweep_rows(sizes=(1e5,)))
    with pytest.raises(TableError, match="has 3 parameters and 2 of 2 groups show an optimum; it needs 4"):
        studied([table], *STEP)


def rising(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest learning rate is always best."""
    return [{**row, "win_rate": 0.5 + row["learner.learning_rate"]} for row in rows]


def test_optima_on_the_edge_leave_their_group_out_and_all_of_them_no_law(tmp_path: Path) -> None:
    rows = sweep_rows()
    one = [row for row in rows if row["model_parameters"] == 3e5]
    others = [row for row in rows if row["model_parameters"] != 3e5]
    (found,) = studied([write(tmp_path / "t.csv", others + rising(one))], *STEP)
    assert len(found.measurements.outcome) == 8
    assert sum("N 3e+05" in note and "on the side of the largest" in note for note in found.notes) == 2
    with pytest.raises(TableError, match=r"Widen the grid of learner\.learning_rate"):
        studied([write(tmp_path / "t.csv", rising(rows))], *STEP)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--law", "step"], "needs --group"),
        (["--law", "step", "--group", "N,Q"], "no column Q"),
        ([*STEP, "--tune", "batch"], "no column batch"),
        ([*STEP, "--tune", "learning_rate:C"], "which --group does not name"),
        ([*STEP, "--tune", "learning_rate:"], "not of the form"),
        ([*STEP, "--hold-out", "C"], "the factors of this law are N, D"),
        ([*STEP, "--hold-out", "N=7"], "--hold-out names 7; the groups are N 1e+05"),
        (["--law", "loss"], "no column loss"),
        (["--law", "loss", "--metric", "win_rate", "--fix", "E"], "NAME=VALUE"),
        (["--law", "loss", "--metric", "win_rate", "--fix", "E=low"], "--fix E=low gives no number"),
        ([*STEP, "--curvature", "shared", "--neighbours", "2"], "--neighbours is of --curvature own"),
        ([*STEP, "--where", "seed=7"], "no row has seed = 7; there are 0, 1"),
        (["--law", "loss", "--metric", "win_rate", "--fix", "F=1"], "no parameter F: it has E, A, a, B, b"),
        (["--law", "time", "--metric", "win_rate"], "no column engines or rollout.engines"),
    ],
)
def test_questions_that_the_table_cannot_answer(
    tmp_path: Path, capsys: Printed, arguments: list[str], message: str
) -> None:
    table = write(tmp_path / "t.csv", sweep_rows())
    assert main(["fit", str(table), *arguments, "--output", str(tmp_path)]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "law.json").exists()


def test_a_prediction_needs_a_fitted_law_and_a_configuration_that_has_its_key(
    fitted: Path, tmp_path: Path, capsys: Printed
) -> None:
    def refused(*arguments: str) -> str:
        assert predict(tmp_path, *arguments) == 1
        return " ".join(capsys.readouterr().err.split())

    assert "there is no fitted law" in refused("--N", "1e7")
    (tmp_path / "law.json").write_text("{}")
    assert "holds no fitted law" in refused("--N", "1e7")
    laws = json.loads((fitted / "law.json").read_text())
    laws["laws"][0]["outcome"] = "learner.learningrate"
    (tmp_path / "law.json").write_text(json.dumps(laws))
    assert "did you mean learner.learning_rate" in refused("--N", "1e7", "--D", "1e7", "--config", str(EGPO))


def test_only_the_rows_asked_for_take_part(tmp_path: Path) -> None:
    one, other = ([{**row, "objective": name} for row in sweep_rows(seed=seed)] for seed, name in enumerate("ab"))
    alone, both = write(tmp_path / "a.csv", one), write(tmp_path / "both.csv", one + rising(other))
    (found,) = studied([both], *STEP, "--where", "objective=a")
    assert found.fit.parameters == pytest.approx(studied([alone], *STEP)[0].fit.parameters)


def test_where_optimisation_goes_too_far_is_said(tmp_path: Path) -> None:
    """d (1.2 - 0.3 d) is highest at d = 2, KL 4, with 1.2."""
    distances = np.linspace(0.5, 3.5, 12)
    rows = [{"kl": d**2, "reward": d * (1.2 - 0.3 * d) + 1e-3 * (-1) ** place} for place, d in enumerate(distances)]
    (found,) = studied([write(tmp_path / "t.csv", rows)], "--law", "best_of_n", "--resamples", "30")
    assert "reward is highest, 1.2, at a KL of 4 nats; beyond, it falls." in found.notes
    rows[4]["kl"] = 0.0
    with pytest.raises(TableError, match=r"t\.csv, row 5: KL is 0, and has to be above 0"):
        studied([write(tmp_path / "t.csv", rows)], "--law", "best_of_n")


def test_time_to_a_win_rate_by_engines_and_staleness(tmp_path: Path, capsys: Printed) -> None:
    """600 s of generation by one engine, 200 s of learning, 5% more updates a version of staleness."""
    rows = [
        {"engines": engines, "eta": eta, "seconds": seconds * (1.01 if (engines + eta) % 2 else 0.99)}
        for engines in (1, 2, 4)
        for eta, seconds in ((0, 600 / engines + 200), (60, 4 * max(600 / engines, 200)))
    ]
    (found,) = studied([write(tmp_path / "t.csv", rows)], "--law", "time", "--resamples", "30")
    assert found.fit.parameters == pytest.approx([600, 200, 0.05], rel=0.03)
    assert predict(tmp_path, "--engines", "2", "--eta", "60") == 0
    assert yaml.safe_load(capsys.readouterr().out)["seconds"] == pytest.approx(1200, rel=0.03)
    rows[1]["eta"] = 1.5
    with pytest.raises(TableError, match=r"eta is 1\.5, and has to be a whole number"):
        studied([write(tmp_path / "t.csv", rows)], "--law", "time")


def test_a_law_of_compute_with_its_start_known(tmp_path: Path, capsys: Printed) -> None:
    generator = np.random.default_rng(0)
    compute = np.geomspace(1e12, 1e15, 24)
    win_rates = 0.5 + 0.3 / (1.0 + (3e13 / compute) ** 1.2) + 3e-3 * generator.standard_normal(24)
    rows = [{"compute": C, "win_rate": rate} for C, rate in zip(compute, win_rates, strict=True)]
    table = write(tmp_path / "t.csv", rows)
    (found,) = studied([table], "--law", "compute", "--fix", "R0=0.5", "--resamples", "30")
    assert found.fit.parameters[:2] == pytest.approx([0.5, 0.8], abs=0.01)
    assert found.check is not None
    assert found.check.held_out.sum() == 1
    assert predict(tmp_path, "--C", "5e15") == 0
    assert yaml.safe_load(capsys.readouterr().out)["win_rate"] == pytest.approx(0.8, abs=0.01)
    assert predict(tmp_path, "--C", "5e15", "--config", str(EGPO)) == 1
    assert "no setting" in capsys.readouterr().err


def curve(kind: Any, steps: int, path: Path) -> Path:
    """A log every 20 steps of a run that obeys the annealing law."""
    rates = np.array([1e-3 * learning_rate_factor(step, steps, 100, kind, 0.1) for step in range(steps)])
    at = np.arange(0, steps, 20, dtype=np.float64)
    losses = LAWS["annealing"].predict(np.array([2.8, 0.6, 0.4, 0.3]), annealing_factors(rates, at, 100))
    losses = losses * np.exp(1e-4 * np.random.default_rng(steps).standard_normal(len(at)))
    logged = zip(at.tolist(), rates[::20].tolist(), losses.tolist(), strict=True)
    return write(path, [{"step": step, "lr": rate, "loss": loss} for step, rate, loss in logged])


def test_loss_curves_are_fitted_and_other_schedules_predicted(tmp_path: Path, capsys: Printed) -> None:
    kinds = (("cosine", 2000), ("constant", 2000), ("wsd", 3000))
    paths = [curve(kind, steps, tmp_path / f"{kind}.csv") for kind, steps in kinds]
    options = ("--delta", "1e-3", "--warmup", "100", "--resamples", "30")
    (found,) = studied(paths, "--law", "annealing", "--hold-out", "file=wsd", *options)
    assert found.fit.parameters == pytest.approx([2.8, 0.6, 0.4, 0.3], rel=0.03)
    assert found.check is not None
    assert found.check.held_out.sum() == 145
    assert found.check.mean_error < 1e-3
    assert "15 logged steps of warm-up left out." in found.notes
    assert predict(tmp_path, "--peak", "1e-3", "--steps", "2500", "--warmup", "100", "--minimum", "0.1") == 0
    losses = yaml.safe_load(capsys.readouterr().out)
    assert set(losses) == {"constant", "linear", "cosine", "wsd", "rex"}
    assert max(losses, key=lambda kind: float(losses[kind])) == "constant"
    assert list(losses.values()) == sorted(losses.values())
    assert predict(tmp_path, "--peak", "1", "--steps", "2500") == 1
    assert "times outside the fitted range" in " ".join(capsys.readouterr().err.split())


def test_the_longest_run_is_held_out_unasked(tmp_path: Path) -> None:
    kinds = (("cosine", 2000), ("wsd", 3000), ("constant", 1000))
    paths = [curve(kind, steps, tmp_path / f"{kind}.csv") for kind, steps in kinds]
    (found,) = studied(paths, "--law", "annealing", "--warmup", "100", "--resamples", "0")
    assert found.check is not None
    assert set(np.array(found.measurements.labels)[found.check.held_out]) == {"wsd"}


def test_runs_that_share_a_file_need_a_group(tmp_path: Path) -> None:
    rows = [{"run": run, "step": step, "lr": 1e-3, "loss": 3.0} for run in "ab" for step in (10, 20, 30)]
    table = write(tmp_path / "t.csv", rows)
    with pytest.raises(TableError, match=r"t\.csv, row 4: step 10 of run t does not come after"):
        studied([table], "--law", "annealing")
    with pytest.raises(TableError, match="run a ends at step 30, within its warm-up of 99 steps"):
        studied([table], "--law", "annealing", "--warmup", "99", "--group", "run")
