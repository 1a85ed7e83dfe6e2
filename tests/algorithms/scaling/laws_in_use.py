"""Every law with true parameters, factors at which it is measured, and the noise of those measurements."""

from dataclasses import dataclass

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling import LAWS
from algorithms.scaling.annealing import annealing_factors
from algorithms.scaling.design import grid
from algorithms.scaling.law import Factors, Law, joined
from algorithms.scaling.multi_power import multi_power_factors
from algorithms.scaling.power_law import power_law
from algorithms.schedules import ScheduleKind, learning_rate_factor

PEAK, WARMUP = 3e-4, 500
STEP_LAW_RATE, STEP_LAW_BATCH = np.array([1.79, -0.713, 0.307]), np.array([0.58, 0.571])
"""Published parameters of lr*(N, D) and of batch*(D) in tokens. Li et al. 2503.04715."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A law in use; `noise` is the standard deviation of a residual."""

    law: Law
    truth: FloatArray
    factors: Factors
    noise: float

    def measured(self, generator: np.random.Generator) -> FloatArray:
        """[n] outcomes with fresh noise."""
        clean = self.law.predict(self.truth, self.factors)
        noise = self.noise * generator.standard_normal(len(clean))
        return clean * np.exp(noise) if self.law.logarithmic else clean + noise


def scheduled(kind: ScheduleKind, steps: int, warmup: int = WARMUP, minimum: float = 0.1) -> FloatArray:
    """[steps] rates of a schedule."""
    return np.array([PEAK * learning_rate_factor(step, steps, warmup, kind, minimum) for step in range(steps)])


def dropped(rate: float, steps: int = 12_000) -> FloatArray:
    """[steps] rates: the peak until half-way, then `rate`."""
    rates = PEAK * np.minimum(1.0, (np.arange(steps) + 1) / WARMUP)
    rates[steps // 2 :] = rate
    return rates


def _curves() -> Factors:
    steps = np.arange(600, 6000, 150, dtype=np.float64)
    return joined([annealing_factors(scheduled(kind, 6000), steps, WARMUP) for kind in ("cosine", "constant", "wsd")])


def _drops() -> Factors:
    """Drops to several rates, read often right after: what tells the exponents of the multi-power law."""
    steps = np.unique(np.concatenate([np.geomspace(600, 6000, 16), 6000 + np.geomspace(2, 5999, 40)]).astype(np.int64))
    runs = [dropped(rate) for rate in (1e-5, 3e-5, 6e-5, 9e-5, 1.8e-4)] + [scheduled("cosine", 12_000)]
    return joined([multi_power_factors(run, steps.astype(np.float64), knots=48) for run in runs])


def cases() -> dict[str, Case]:
    """By name."""
    sizes = {"N": (1e8, 1e9), "D": (1e9, 1e11)}
    kl = {"KL": np.linspace(0.5, 60.0, 30)}
    staleness, engines = np.meshgrid([0.0, 1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0])
    time = {"eta": staleness.ravel(), "engines": engines.ravel()}
    laws = {
        "rate": (power_law(("N", "D")), STEP_LAW_RATE, grid(sizes, 4), 0.1),
        "batch": (power_law(("D",)), STEP_LAW_BATCH, grid({"D": (1e9, 1e11)}, 12), 0.1),
        "loss": (
            LAWS["loss"],
            [1.8172, 477.8, 0.3473, 2143, 0.3672],
            grid({"N": (1e7, 1e10), "D": (1e8, 1e12)}, 8),
            3e-3,
        ),
        "annealing": (LAWS["annealing"], [2.79, 0.592, 0.456, 0.48], _curves(), 1e-3),
        "multi_power": (LAWS["multi_power"], [2.651, 0.601, 0.453, 437.9, 2.132, 0.598, 0.655], _drops(), 3e-4),
        "best_of_n": (LAWS["best_of_n"], [1.2, 0.3], {"KL": np.linspace(0.2, 9.0, 30)}, 0.05),
        "reinforcement": (LAWS["reinforcement"], [1.2, 0.5], kl, 0.05),
        "direct_alignment": (LAWS["direct_alignment"], [0.15, 0.06], kl, 0.02),
        "compute": (LAWS["compute"], [0.5, 0.8, 1.5, 3e3], grid({"C": (1e2, 1e5)}, 30), 0.01),
        "time": (LAWS["time"], [600.0, 200.0, 0.1], time, 0.05),
    }
    return {
        name: Case(law=law, truth=np.asarray(truth, dtype=np.float64), factors=factors, noise=noise)
        for name, (law, truth, factors, noise) in laws.items()
    }
