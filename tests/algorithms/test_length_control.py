"""The regression of AlpacaEval 2: its cross-validation written out, known coefficients found again, and gaming."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from algorithms.length_control import (
    STRENGTHS,
    Comparisons,
    length_control,
    length_control_interval,
)

FloatArray = npt.NDArray[np.float64]


def simulated(
    count: int, *, length: float, difficulty: float = 0.0, model: float = 0.0, shift: float = 0.0, seed: int = 0
) -> Comparisons:
    """Soft preferences that follow the regression exactly; the model's answers are longer by `shift` characters."""
    generator = np.random.default_rng(seed)
    difference = generator.normal(0.0, 150.0, count) - shift
    hard = generator.normal(0.0, 1.5, count)
    spread = difference.std(ddof=1)
    preference = expit(length * np.tanh(difference / spread) + difficulty * hard + model)
    return Comparisons(preference=preference, length_difference=difference, example=np.arange(count), difficulty=hard)


def written_out(comparisons: Comparisons, gamed: Comparisons) -> tuple[FloatArray, float]:
    """The same fit step by step: (coefficients, strength)."""
    parts = [(gamed, 0.0, 0.2), (comparisons, 1.0, 1.0)]
    rows, labels, weights = [], [], []
    for part, own, weight in parts:
        difference = np.asarray(part.length_difference)
        assert part.difficulty is not None
        columns = [np.tanh(difference / difference.std(ddof=1)), part.difficulty, np.full(len(difference), own)]
        rows.append(np.stack(columns, axis=1))
        labels.append(np.asarray(part.preference))
        weights.append(np.full(len(difference), weight))
    x, p, w = np.concatenate(rows), np.concatenate(labels), np.concatenate(weights)

    def fit(places: npt.NDArray[np.int64], strength: float) -> LogisticRegression:
        regression = LogisticRegression(
            C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123
        )
        twice = np.concatenate([places, places])
        outcome = np.repeat([1, 0], len(places))
        share = np.concatenate([p[places], 1 - p[places]])
        return regression.fit(x[twice], outcome, sample_weight=share * w[twice])

    losses = np.zeros(len(STRENGTHS))
    for train, held_out in GroupKFold(5).split(x, groups=np.arange(len(x))):
        for place, strength in enumerate(STRENGTHS):
            q = fit(train, strength).predict_proba(x[held_out])[:, 1]
            entropy = p[held_out] * np.log(q) + (1 - p[held_out]) * np.log(1 - q)
            losses[place] -= np.mean(w[held_out] * entropy)
    best = float(STRENGTHS[losses.argmin()])
    return fit(np.arange(len(x)), best).coef_[0], best


def test_is_the_published_procedure_step_by_step() -> None:
    """With difficulty and a gamed baseline; each comparison is alone, as in AlpacaEval."""
    noise = np.random.default_rng(5)
    gamed = simulated(60, length=-1.0, seed=1)
    comparisons = replace(simulated(90, length=-0.7, difficulty=0.4, model=0.3), example=np.arange(60, 150))
    drawn = (noise.random(90) < np.asarray(comparisons.preference)).astype(float)
    comparisons = replace(comparisons, preference=drawn)
    found = length_control(comparisons, [gamed])
    coefficients, strength = written_out(comparisons, gamed)
    assert found.strength == strength
    np.testing.assert_allclose([found.length, found.difficulty, found.model], coefficients, atol=1e-8)
    assert comparisons.difficulty is not None
    controlled = expit(found.difficulty * np.asarray(comparisons.difficulty) + found.model).mean()
    assert found.win_rate == pytest.approx(float(controlled))


def test_finds_the_coefficients_that_made_the_preferences() -> None:
    comparisons = simulated(3000, length=-0.9, difficulty=0.5, model=0.25)
    found = length_control(comparisons)
    assert (found.length, found.difficulty, found.model) == pytest.approx((-0.9, 0.5, 0.25), abs=0.02)


def test_a_win_by_length_alone_is_no_win() -> None:
    """Judges like length; the model writes longer and is no better. Said of itself, the same holds mirrored."""
    comparisons = simulated(3000, length=-1.2, shift=200.0)
    raw = float(np.mean(np.asarray(comparisons.preference)))
    found = length_control(replace(comparisons, difficulty=None))
    assert raw > 0.65
    assert found.win_rate == pytest.approx(0.5, abs=0.02)
    mirrored = replace(
        comparisons,
        preference=1 - np.asarray(comparisons.preference),
        length_difference=-np.asarray(comparisons.length_difference),
        difficulty=None,
    )
    assert length_control(mirrored).win_rate == pytest.approx(1 - found.win_rate, abs=1e-3)


def test_equal_lengths_leave_the_win_rate() -> None:
    preference = np.random.default_rng(0).random(400) ** 0.7
    same = Comparisons(preference=preference, length_difference=np.zeros(400), example=np.arange(400))
    assert length_control(same).win_rate == pytest.approx(preference.mean(), abs=1e-3)


def test_gamed_baselines_hold_the_regression_back() -> None:
    """All answers of the model are longer and all win: length and quality can't be told apart without them."""
    generator = np.random.default_rng(0)
    difference = -generator.uniform(100, 900, 200)
    always = Comparisons(preference=np.full(200, 0.95), length_difference=difference, example=np.arange(200))
    verbose = Comparisons(
        preference=np.full(200, 0.5), length_difference=difference + 50.0, example=np.arange(200, 400)
    )
    alone, held = length_control(always), length_control(always, [verbose])
    assert abs(held.length) < abs(alone.length)
    assert held.win_rate > alone.win_rate


def test_comparisons_of_one_prompt_stay_in_one_fold() -> None:
    """Four equal comparisons of each prompt, told apart or not, are cross-validated differently."""
    once = simulated(40, length=-0.7, model=0.2, seed=3)
    drawn = (np.random.default_rng(1).random(40) < np.asarray(once.preference)).astype(float)
    times = np.repeat(np.arange(40), 4)
    grouped = replace(replace(once, preference=drawn).take(times), difficulty=None)
    split = replace(grouped, example=np.arange(160))
    assert length_control(grouped).strength < length_control(split).strength


def test_the_interval_holds_the_truth_and_narrows_with_prompts() -> None:
    truth = float(expit(0.4))
    intervals = {}
    for count in (50, 400):
        comparisons = replace(simulated(count, length=-0.8, model=0.4, seed=7), difficulty=None)
        drawn = (np.random.default_rng(2).random(count) < np.asarray(comparisons.preference)).astype(float)
        comparisons = replace(comparisons, preference=drawn)
        low, high = intervals[count] = length_control_interval(comparisons, resamples=20)
        assert low < truth < high
        assert low < length_control(comparisons).win_rate < high
    (low, high), (few_low, few_high) = intervals[400], intervals[50]
    assert high - low < (few_high - few_low) / 1.8
    narrow = length_control_interval(comparisons, resamples=10, confidence=0.5, seed=1)
    assert narrow[1] - narrow[0] < high - low


def test_what_cannot_be_fitted_is_refused() -> None:
    few = Comparisons(preference=[1.0, 0.0], length_difference=[1.0, 2.0], example=[0, 1])
    with pytest.raises(ValueError, match="at least 5 prompts, got 2"):
        length_control(few)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        length_control(replace(few, preference=[2.0, 0.0]))
