"""The laws' own mathematics: published constants, closed forms, and what a schedule turns into."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.preference import FloatArray
from algorithms.scaling import LAWS
from algorithms.scaling.annealing import annealing_factors, rates_of_every_step
from algorithms.scaling.law import amplitudes
from algorithms.scaling.multi_power import multi_power_factors
from algorithms.scaling.overoptimisation import best_of_n, best_of_n_peak, reinforcement, reinforcement_peak
from algorithms.scaling.power_law import power_law
from algorithms.scaling.problem import gradient
from algorithms.scaling.time_to_win_rate import departure
from tests.algorithms.scaling.laws_in_use import PEAK, STEP_LAW_BATCH, STEP_LAW_RATE, cases, scheduled

CASES = cases()


def at(**values: float) -> dict[str, FloatArray]:
    return {name: np.array([float(value)]) for name, value in values.items()}


def test_the_step_law_gives_its_published_example() -> None:
    """7e9 parameters, 1.4e12 tokens: a rate of 9.17e-4 and batches of 5.00M tokens."""
    rate = power_law(("N", "D")).predict(STEP_LAW_RATE, at(N=7e9, D=1.4e12))
    batch = power_law(("D",)).predict(STEP_LAW_BATCH, at(D=1.4e12))
    assert rate[0] == pytest.approx(9.17e-4, rel=1e-3)
    assert batch[0] == pytest.approx(5.00e6, rel=2e-3)


def every(steps: int) -> FloatArray:
    return np.arange(steps, dtype=np.float64)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_small_steps(name: str) -> None:
    case = CASES[name]
    _, slopes = gradient(case.law, case.truth, case.factors)
    for place, positive in enumerate(case.law.positive):
        ends = []
        for sign in (1.0, -1.0):
            moved = case.truth.copy()
            moved[place] = moved[place] * np.exp(sign * 1e-5) if positive else moved[place] + sign * 1e-5
            value = case.law.predict(moved, case.factors)
            ends.append(np.log(value) if case.law.logarithmic else value)
        assert slopes[:, place] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_annealing_factors_by_hand() -> None:
    """Rates 0, 2, 4 (warm-up), 4, 3, 1 with lambda 1/2: m = 0, 0, 0, 0, 1, 2.5."""
    factors = annealing_factors(np.array([0.0, 2, 4, 4, 3, 1]), every(6), warmup=2, decay=0.5)
    assert factors["S1"].tolist() == [0, 2, 6, 10, 13, 14]
    assert factors["S2"].tolist() == [0, 0, 0, 0, 1, 3.5]


def test_momentum_is_the_double_sum_of_the_paper() -> None:
    rates, decay = scheduled("cosine", 60, warmup=10), 0.9
    found = annealing_factors(rates, np.array([59.0]), warmup=10, decay=decay)["S2"][0]
    expected = sum((rates[k - 1] - rates[k]) * decay ** (i - k) for i in range(11, 60) for k in range(11, i + 1))
    assert found == pytest.approx(expected)


def test_warm_up_and_a_constant_rate_anneal_nothing() -> None:
    factors = annealing_factors(scheduled("constant", 900), every(900), warmup=500)
    assert (factors["S2"] == 0.0).all()
    assert annealing_factors(scheduled("constant", 900), every(900), warmup=0)["S2"].min() < 0.0


def test_a_log_becomes_the_rate_of_every_step() -> None:
    rates = rates_of_every_step(np.array([4.0, 6, 8]), np.array([1.0, 1, 0.5]), warmup=4)
    assert rates.tolist() == [0, 0.25, 0.5, 0.75, 1, 1, 1, 0.75, 0.5]


def test_the_multi_power_law_of_one_drop() -> None:
    """A drop from 2 to 1 at step 3 of a run without warm-up: S_k is 1 right there and 5 four steps later."""
    rates = np.array([2.0, 2, 2, 1, 1, 1, 1, 1])
    factors = multi_power_factors(rates, np.array([2.0, 3.0, 7.0]), knots=7)
    L0, A, alpha, B, C, beta, gamma = truth = np.array([3.0, 0.5, 0.4, 2.0, 1.5, 0.6, 0.7])
    before, there, after = LAWS["multi_power"].predict(truth, factors)
    assert before == pytest.approx(L0 + A * 6**-alpha)
    assert there == pytest.approx(L0 + A * 7**-alpha - B * (1 - (C + 1) ** -beta))
    assert after == pytest.approx(L0 + A * 11**-alpha - B * (1 - (5 * C + 1) ** -beta))
    assert gamma == 0.7


def test_knots_of_the_multi_power_law_converge() -> None:
    case = CASES["multi_power"]
    rates, steps = scheduled("cosine", 12_000), 300.0 * every(40)[2:]
    coarse, fine = (case.law.predict(case.truth, multi_power_factors(rates, steps, knots)) for knots in (128, 6000))
    assert coarse == pytest.approx(fine, rel=3e-4)


def test_a_rate_of_zero_has_a_loss() -> None:
    rates = PEAK * np.linspace(1.0, 0.0, 100)
    assert np.isfinite(
        LAWS["multi_power"].predict(CASES["multi_power"].truth, multi_power_factors(rates, np.array([99.0])))
    ).all()


def test_peaks_of_optimisation() -> None:
    parameters = np.array([1.2, 0.5])
    for form, peak in ((best_of_n, best_of_n_peak), (reinforcement, reinforcement_peak)):
        distance, reward = peak(parameters)
        around = form(parameters, {"KL": (distance * np.array([0.99, 1.0, 1.01])) ** 2})
        assert around[1] == pytest.approx(reward)
        assert around.argmax() == 1
    assert best_of_n(parameters, at(KL=(1.2 / 0.5) ** 2))[0] == pytest.approx(0.0)


def test_a_proxy_with_noise_has_the_hump_of_the_law() -> None:
    """Best of n by a proxy that is gold plus heavy-tailed noise: gold first rises, and the law's hump is fitted."""
    generator = np.random.default_rng(0)
    gold = generator.standard_normal((20_000, 256))
    proxy = np.minimum(gold, 1.5) + 0.3 * generator.standard_t(2, gold.shape)
    counts = np.array([2, 4, 8, 16, 32, 64, 128, 256])
    kl = np.log(counts) - (counts - 1) / counts
    rewards = np.array([np.take_along_axis(gold[:, :n], proxy[:, :n].argmax(1)[:, None], 1).mean() for n in counts])
    start = next(LAWS["best_of_n"].starts({"KL": kl}, rewards))
    distance, reward = best_of_n_peak(start)
    assert 0.5 * np.sqrt(kl[-1]) < distance < 1.5 * np.sqrt(kl[-1])
    assert reward == pytest.approx(rewards.max(), rel=0.15)
    assert rewards[-1] < rewards.max()


def test_half_of_the_gain_lies_at_the_middle_compute() -> None:
    parameters = np.array([0.5, 0.8, 1.7, 3e3])
    early, middle, late = (LAWS["compute"].predict(parameters, at(C=C))[0] for C in (1e-3, 3e3, 1e12))
    assert (early, middle, late) == pytest.approx((0.5, 0.65, 0.8), abs=1e-6)
    C = np.array([1e3, 1e4])
    values = LAWS["compute"].predict(parameters, {"C": C})
    odds = np.log((values - 0.5) / (0.8 - values))
    assert np.diff(odds) / np.diff(np.log(C)) == pytest.approx(1.7)


@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.integers(1, 12))
def test_departures_of_a_queue_with_so_many_batches(generation: float, learning: float, circulating: int) -> None:
    """Gordon and Newell's closed form: h_K / h_{K-1}, both sums over how the batches may be spread."""

    def spread(count: int) -> float:
        return float(sum(generation**i * learning ** (count - i) for i in range(count + 1)))

    found = departure(np.array([generation]), np.array([learning]), np.array([float(circulating)]))[0]
    assert found == pytest.approx(spread(circulating) / spread(circulating - 1))


def test_the_queue_by_simulation() -> None:
    """Three batches between two servers with exponential times, seen over 200,000 departures."""
    generator = np.random.default_rng(0)
    generation, learning = generator.exponential(3.0, 200_000), generator.exponential(2.0, 200_000)
    generated = learned = 0.0
    returned = [0.0] * 3
    for made, trained in zip(generation.tolist(), learning.tolist(), strict=True):
        generated = max(generated, returned.pop(0)) + made
        learned = max(learned, generated) + trained
        returned.append(learned)
    assert learned / 200_000 == pytest.approx(departure(np.array([3.0]), np.array([2.0]), np.array([3.0]))[0], rel=0.01)


def test_no_staleness_is_the_synchronous_loop_and_much_is_the_slower_plane() -> None:
    law, parameters = LAWS["time"], np.array([600.0, 200.0, 0.0])
    assert law.predict(parameters, at(eta=0, engines=2))[0] == 500.0
    assert law.predict(parameters, at(eta=60, engines=2))[0] == pytest.approx(300.0, rel=1e-6)
    slowed = law.predict(np.array([600.0, 200.0, 0.1]), at(eta=5, engines=2))[0]
    assert slowed == pytest.approx(1.5 * law.predict(parameters, at(eta=5, engines=2))[0])


def test_amplitudes_are_exact_where_they_can_be_and_positive_where_not() -> None:
    columns = [np.ones(5), 1.0 + every(5)]
    assert amplitudes(columns, 2.0 * columns[0] + 3.0 * columns[1]) == pytest.approx([2, 3])
    assert (amplitudes(columns, 9.0 * columns[0] - columns[1]) > 0).all()
