"""What a fit promises: outliers hardly move it, what can't be told is refused, and it does not extrapolate unasked."""

from dataclasses import replace

import numpy as np
import pytest

from algorithms.scaling.bootstrap import bootstrap
from algorithms.scaling.design import grid, next_measurements
from algorithms.scaling.fit import ExtrapolationError, Fit, FitError, fit_law
from algorithms.scaling.identification import doubts
from algorithms.scaling.power_law import power_law
from tests.algorithms.scaling.laws_in_use import cases

CASES = cases()


def fitted(name: str, seed: int = 0) -> Fit:
    case = CASES[name]
    return fit_law(case.law, case.factors, case.measured(np.random.default_rng(seed)))


def test_without_outliers_it_is_least_squares_of_logarithms() -> None:
    case = CASES["rate"]
    outcome = case.measured(np.random.default_rng(0))
    columns = np.stack([np.ones(16), np.log(case.factors["N"]), np.log(case.factors["D"])], axis=1)
    expected, squares, *_ = np.linalg.lstsq(columns, np.log(outcome), rcond=None)
    found = fit_law(case.law, case.factors, outcome, delta=10.0)
    assert [np.log(found.parameters[0]), *found.parameters[1:]] == pytest.approx(expected)
    assert found.covariance == pytest.approx(squares / 13 * np.linalg.inv(columns.T @ columns), rel=1e-5)


def test_an_outlier_hardly_moves_a_robust_fit() -> None:
    case = CASES["batch"]
    outcome = case.measured(np.random.default_rng(0))
    clean = fit_law(case.law, case.factors, outcome)
    outcome[-1] *= 100.0
    robust = fit_law(case.law, case.factors, outcome)
    squares = fit_law(case.law, case.factors, outcome, delta=1e3)
    assert abs(robust.parameters[1] - clean.parameters[1]) < 0.1 * abs(squares.parameters[1] - clean.parameters[1])


def test_delta_is_where_the_loss_turns_linear() -> None:
    """Beyond delta every residual pulls alike: with a delta of nearly 0 the constant is the median."""
    outcome = np.array([1.0, 2.0, 3.0, 50.0, 1000.0])
    small, large = (
        fit_law(power_law(("D",)), {"D": np.ones(5)}, outcome, delta=delta, fixed={"a": 0.0}) for delta in (1e-4, 1e3)
    )
    assert small.parameters[0] == pytest.approx(3.0, rel=1e-3)
    assert large.parameters[0] == pytest.approx(np.exp(np.log(outcome).mean()))


def test_a_known_parameter_is_held_and_narrows_the_others() -> None:
    case = CASES["compute"]
    outcome = case.measured(np.random.default_rng(3))
    free, held = (fit_law(case.law, case.factors, outcome, fixed=fixed) for fixed in (None, {"R0": 0.5}))
    assert held.parameters[0] == 0.5
    assert held.intervals()[0].tolist() == [0.5, 0.5]
    assert held.degrees == free.degrees + 1
    assert np.diff(held.intervals()[2])[0] < np.diff(free.intervals()[2])[0]
    with pytest.raises(FitError, match="no parameter R: it has R0, A, B, C_mid"):
        fit_law(case.law, case.factors, outcome, fixed={"R": 0.5})


def test_more_starts_find_what_one_misses() -> None:
    """From this start the way down ends in a flat line, which tells nothing about the middle."""
    case, bad = CASES["compute"], np.array([0.9, 0.1, 30.0, 10.0])
    outcome = case.law.predict(case.truth, case.factors)
    with pytest.raises(FitError, match="can't tell B and C_mid"):
        fit_law(case.law, case.factors, outcome, delta=1e-3, begin=[bad])
    both = fit_law(case.law, case.factors, outcome, delta=1e-3, begin=[bad, case.truth * 1.1])
    assert both.parameters == pytest.approx(case.truth, rel=1e-4)


def test_bands_of_the_law_and_of_a_measurement() -> None:
    """In 300 draws, the truth is in the band of the law and a new measurement in that of a measurement, 95% each."""
    case, generator = CASES["rate"], np.random.default_rng(0)
    target = {"N": np.array([2e9]), "D": np.array([2e11])}
    truth = case.law.predict(case.truth, target)[0]
    law = measurement = 0
    for _ in range(300):
        found = fit_law(case.law, case.factors, case.measured(generator))
        band, wider = found.predict(target), found.predict(target, scatter=True)
        law += bool(band.low[0] <= truth <= band.high[0])
        measured = truth * np.exp(case.noise * generator.standard_normal())
        measurement += bool(wider.low[0] <= measured <= wider.high[0])
    assert 270 <= law <= 297
    assert 270 <= measurement <= 297


def test_a_higher_confidence_is_a_wider_interval() -> None:
    found = fitted("loss")
    assert (np.diff(found.intervals(0.99)) > np.diff(found.intervals(0.9))).all()


@pytest.mark.parametrize(("N", "beyond"), [(2e10, "20 times"), (2e6, "50 times")])
def test_it_extrapolates_more_than_ten_times_only_when_allowed(N: float, beyond: str) -> None:
    found = fitted("rate")
    target = {"N": np.array([N]), "D": np.array([1e10])}
    with pytest.raises(ExtrapolationError, match=f"{beyond} outside the fitted range"):
        found.predict(target)
    assert found.predict(target, extrapolate=True).value[0] > 0
    found.predict({"N": np.array([9e9]), "D": np.array([1e10])})


def test_too_few_measurements_are_refused() -> None:
    case = CASES["rate"]
    few = {name: values[:3] for name, values in case.factors.items()}
    with pytest.raises(FitError, match="3 parameters to find and there are 3 measurements; it needs at least 4"):
        fit_law(case.law, few, np.ones(3))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "measurement 5 has no finite optimum"), (-1.0, "measurement 5 has -1")]
)
def test_a_measurement_that_is_none_is_named(value: float, message: str) -> None:
    case = CASES["rate"]
    outcome = np.ones(16)
    outcome[5] = value
    with pytest.raises(FitError, match=message):
        fit_law(case.law, case.factors, outcome)


def test_factors_that_move_together_are_refused() -> None:
    sizes = np.geomspace(1e6, 1e9, 9)
    with pytest.raises(FitError, match="can't tell c and a and b"):
        fit_law(power_law(("N", "D")), {"N": sizes, "D": 20.0 * sizes}, np.linspace(1.0, 9.0, 9))
    with pytest.raises(FitError, match=r"can't tell c and b of optimum = c N\^a D\^b apart"):
        fit_law(power_law(("N", "D")), {"N": sizes, "D": np.full(9, 1e9)}, sizes**0.5 + 1.0)


def test_what_is_hardly_known_is_said() -> None:
    """All tokens a fixed multiple of the parameters: two power terms of one variable."""
    case = CASES["loss"]
    sizes = np.geomspace(1e7, 1e10, 12)
    factors = {"N": sizes, "D": 20.0 * sizes}
    outcome = case.law.predict(case.truth, factors) * np.exp(1e-3 * np.random.default_rng(0).standard_normal(12))
    found = " ".join(doubts(fit_law(case.law, factors, outcome)))
    assert "hardly known" in found
    assert "known only together" in found
    assert doubts(fitted("best_of_n")) == []


def test_a_rival_solution_is_said() -> None:
    found = replace(fitted("best_of_n"), rival=np.array([2.0, 0.9]))
    assert doubts(found) == ["Another solution fits nearly as well: alpha 2, beta 0.9."]


def test_symmetric_parameters_have_a_rival() -> None:
    """With N and D equal the two terms may change places: two solutions, equally good."""
    case, sizes = CASES["loss"], np.geomspace(1e2, 1e8, 40)
    truth = np.array([1.0, 10.0, 0.2, 40.0, 0.6])
    outcome = case.law.predict(truth, {"N": sizes, "D": sizes})
    noisy = outcome * np.exp(1e-4 * np.random.default_rng(0).standard_normal(40))
    begin = [truth * 1.1, truth[[0, 3, 4, 1, 2]] * 1.1]
    found = fit_law(case.law, {"N": sizes, "D": sizes}, noisy, begin=begin)
    assert found.rival is not None
    assert sorted(found.rival) == pytest.approx(sorted(found.parameters), rel=1e-3)


def test_resampling_one_row_a_group_agrees_with_the_formula() -> None:
    found, case = fitted("batch"), CASES["batch"]
    outcome = case.measured(np.random.default_rng(0))
    resampled = bootstrap(found, case.factors, outcome, range(12), resamples=500)
    deviation = resampled.resampled[:, 1].std()
    assert deviation == pytest.approx(np.sqrt(found.covariance[1, 1]), rel=0.35)
    assert (resampled.intervals()[:, 0] <= found.intervals()[:, 0]).all()
    assert (resampled.intervals()[:, 1] >= found.intervals()[:, 1]).all()
    again, other = (bootstrap(found, case.factors, outcome, range(12), resamples=50, seed=seed) for seed in (0, 1))
    assert (again.resampled == resampled.resampled[:50]).all()
    assert (other.resampled != resampled.resampled[:50]).any()
    with pytest.raises(ValueError, match="3 labels, 12 measurements"):
        bootstrap(found, case.factors, outcome, range(3))


def test_the_best_next_measurement_narrows_the_prediction_as_promised() -> None:
    """A straight line in logarithms: the promised interval is that of the fit with the proposed row added."""
    case = CASES["batch"]
    found = fit_law(
        case.law,
        case.factors,
        case.law.predict(case.truth, case.factors) * np.exp(0.1 * (-1.0) ** np.arange(12)),
        delta=10.0,
    )
    target = {"D": np.array([5e11])}
    candidates = grid({"D": (1e9, 5e11)}, 7)
    first, second = next_measurements(found, target, candidates, count=2)
    assert first.factors["D"] == pytest.approx(5e11)
    assert 0.0 < first.shrinkage < second.shrinkage < 1.0
    columns = np.stack([np.ones(13), np.log([*case.factors["D"], first.factors["D"]])], axis=1)
    point = np.array([1.0, np.log(5e11)])
    before, after = (point @ np.linalg.inv(rows.T @ rows) @ point for rows in (columns[:-1], columns))
    ratio = found.covariance[1, 1] / (found.deviation**2 * np.linalg.inv(columns[:-1].T @ columns[:-1])[1, 1])
    assert ratio == pytest.approx(1.0, rel=1e-6)
    assert first.shrinkage == pytest.approx(1.0 - (after / before) ** 0.5, rel=1e-6)
