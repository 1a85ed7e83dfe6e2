"""Every law's parameters are found again, and its intervals contain the truth as often as they claim."""

import numpy as np
import pytest

from algorithms.preference import FloatArray
from algorithms.scaling import LAWS
from algorithms.scaling.bootstrap import bootstrap
from algorithms.scaling.fit import fit_law
from tests.algorithms.scaling.laws_in_use import Case, cases

CASES = cases()
QUICK = [name for name in CASES if name != "multi_power"]


def test_every_law_is_here() -> None:
    assert {case.law.name for case in CASES.values()} == {*LAWS, "step"}


@pytest.mark.parametrize("name", QUICK)
def test_without_noise_the_parameters_come_back(name: str) -> None:
    case = CASES[name]
    found = fit_law(case.law, case.factors, case.law.predict(case.truth, case.factors))
    assert found.parameters == pytest.approx(case.truth, rel=1e-4)


def covered(case: Case, draws: int, seed: int, begin: bool = False) -> FloatArray:
    """How often the 95% interval of each parameter contains the truth."""
    generator, hits = np.random.default_rng(seed), np.zeros(len(case.truth))
    for _ in range(draws):
        outcome = case.measured(generator)
        found = fit_law(case.law, case.factors, outcome, begin=[case.truth] if begin else None, most_starts=2)
        low, high = found.intervals().T
        hits += (low <= case.truth) & (case.truth <= high)
    return hits


@pytest.mark.parametrize("name", QUICK)
def test_the_truth_is_in_the_interval_in_ninety_of_a_hundred_draws(name: str) -> None:
    assert (covered(CASES[name], 100, seed=1) >= 90).all()


@pytest.mark.slow
def test_the_interval_of_the_multi_power_law_too() -> None:
    """From the truth on: what is tested is the interval, and its many starts would take minutes."""
    assert (covered(CASES["multi_power"], 100, seed=1, begin=True) >= 90).all()


def test_intervals_are_neither_too_narrow_nor_too_wide() -> None:
    hits = covered(CASES["batch"], 1000, seed=0)
    assert (hits >= 930).all()
    assert (hits <= 970).all()


def test_resampling_groups_sees_what_their_rows_share() -> None:
    """Ten rows with one common error are one measurement: the bootstrap over groups knows, rows alone do not."""
    case = CASES["batch"]
    generator = np.random.default_rng(0)
    factors = {"D": np.repeat(case.factors["D"], 10)}
    outcome = np.repeat(case.measured(generator), 10) * np.exp(1e-3 * generator.standard_normal(120))
    naive = fit_law(case.law, factors, outcome)
    resampled = bootstrap(naive, factors, outcome, np.repeat(np.arange(12), 10).tolist(), resamples=200)
    narrow, wide = (np.diff(found.intervals()[1])[0] for found in (naive, resampled))
    honest = np.diff(fit_law(case.law, case.factors, outcome[::10]).intervals()[1])[0]
    assert narrow < 0.5 * honest
    assert wide > 0.6 * honest
