"""Laws of a loss curve on real ones: 25M and 100M models under nine schedules. Skipped where they are absent."""

from pathlib import Path

import numpy as np
import pytest

from algorithms.preference import FloatArray
from algorithms.scaling import LAWS
from algorithms.scaling.annealing import annealing_factors, rates_of_every_step
from algorithms.scaling.fit import fit_law
from algorithms.scaling.law import joined
from algorithms.scaling.multi_power import multi_power_factors

CURVES = Path(__file__).resolve().parents[4] / "shared" / "data" / "multipowerlaw"
FITTED = ("cosine_24000", "constant_24000")
UNSEEN = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdcon_18", "wsdcon_3", "wsdcon_9", "wsdld_20000_24000")
WARMUP = 2160

pytestmark = pytest.mark.skipif(not CURVES.is_dir(), reason="needs the loss curves of MultiPowerLaw in shared/data")


def curve(size: str, name: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Logged steps [n], their losses [n], and the rate of every step."""
    steps, rates, losses = np.loadtxt(CURVES / f"csv_{size}" / f"{name}.csv", delimiter=",", skiprows=1).T
    return steps, losses, rates_of_every_step(steps, rates, WARMUP)


@pytest.mark.parametrize(
    ("size", "expected"), [("25", [3.164, 0.509, 0.524, 0.406]), ("100", [2.790, 0.592, 0.456, 0.480])]
)
def test_the_annealing_law_of_two_runs_predicts_seven_others(size: str, expected: list[float]) -> None:
    law, fitted = LAWS["annealing"], [curve(size, name) for name in FITTED]
    factors = joined([annealing_factors(rates, steps, WARMUP) for steps, _, rates in fitted])
    found = fit_law(law, factors, np.concatenate([losses for _, losses, _ in fitted]), delta=1e-3)
    assert found.parameters == pytest.approx(expected, rel=0.01)
    errors = []
    for steps, losses, rates in (curve(size, name) for name in UNSEEN):
        predicted = law.predict(found.parameters, annealing_factors(rates, steps, WARMUP))
        errors.append(np.abs(predicted / losses - 1.0).mean())
    assert np.mean(errors) <= 2e-3


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ("25", [3.040, 0.525, 0.508, 363.788, 2.066, 0.583, 0.641]),
        ("100", [2.651, 0.601, 0.453, 437.946, 2.132, 0.598, 0.655]),
    ],
)
def test_the_published_multi_power_law_explains_the_unseen_curves(size: str, published: list[float]) -> None:
    explained, errors = [], []
    for steps, losses, rates in (curve(size, name) for name in UNSEEN):
        predicted = LAWS["multi_power"].predict(np.array(published), multi_power_factors(rates, steps))
        explained.append(1.0 - ((losses - predicted) ** 2).sum() / ((losses - losses.mean()) ** 2).sum())
        errors.append(np.abs(predicted / losses - 1.0).mean())
    assert np.mean(explained) >= 0.997
    assert min(explained) >= 0.996
    assert np.mean(errors) <= 1.8e-3
