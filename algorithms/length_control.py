"""Length-controlled win rate: what the win rate would be if both answers were as long (AlpacaEval 2).

A logistic regression without intercept explains each preference of the model over its baseline by

    logit P = theta tanh((len_baseline - len_model) / std) + psi difficulty_x + phi 1[not a gamed baseline]

and the length-controlled rate is the mean of sigmoid(psi difficulty_x + phi): the same, with the length term at 0
(Dubois et al. 2024, arXiv 2404.04475; `length_controlled_v1` of their code). `std` is the sample deviation of this
model's length differences. L1 regularised; its strength is chosen by cross-validation over examples.

AlpacaEval's own prompts come with a difficulty of each instruction and with answers of the baseline that was told to
be verbose or concise, which hold the regression back where lengths are gamed. Other prompts have neither; then the
terms are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import sklearn
from scipy.special import expit
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold

FloatArray = npt.NDArray[np.float64]

FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)
"""Inverse strengths C that cross-validation chooses from (scikit-learn's default grid)."""
SEED = 123
REGULARISER = 0.2
"""Weight of all gamed baselines together, against 1 of the model."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparisons:
    """n preferences of one model over the baseline, each field [n].

    Example: `Comparisons(preference=[1, 0.5], length_difference=[12, -3], example=[0, 1])`.
    """

    preference: npt.ArrayLike
    """Probability that the model's answer is preferred, in [0, 1]."""
    length_difference: npt.ArrayLike
    """Length of the baseline's answer minus that of the model's, in characters."""
    example: npt.ArrayLike
    """Which prompt it is about; comparisons of one are never split between folds. AlpacaEval numbers all comparisons of
    a fit, so that each is alone."""
    difficulty: npt.ArrayLike | None = None
    """Of the instruction, shared by all models; without it the term is left out."""

    def take(self, rows: npt.NDArray[np.int64]) -> "Comparisons":
        """The comparisons at these places."""
        fields = ("preference", "length_difference", "example", "difficulty")
        known = {name: value for name in fields if (value := getattr(self, name)) is not None}
        return replace(self, **{name: np.asarray(value)[rows] for name, value in known.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControl:
    """A fitted regression.

    win_rate: length-controlled, in [0, 1]. length, difficulty, model: theta, psi, phi; psi is 0 without a difficulty.
    strength: the C that cross-validation chose.
    """

    win_rate: float
    length: float
    difficulty: float
    model: float
    strength: float


def length_control(comparisons: Comparisons, gamed: Sequence[Comparisons] = ()) -> LengthControl:
    """Fit the regression. `gamed` holds the comparisons of each baseline that was told to be verbose or concise.

    Lengths that never differ leave the rate of a regression without the length term. Where few comparisons say little,
    the strongest regularisation may predict best: then all coefficients are 0 and the rate is exactly 1/2.
    Raises: ValueError for preferences outside [0, 1] or fewer examples than folds.
    """
    data = _Design.of(comparisons, gamed)
    if (examples := len(np.unique(data.example))) < FOLDS:
        raise ValueError(f"cross-validation needs at least {FOLDS} prompts, got {examples}")
    scorer = make_scorer(_log_loss, response_method="predict_proba", greater_is_better=False)
    with sklearn.config_context(enable_metadata_routing=True):
        search = LogisticRegressionCV(
            Cs=STRENGTHS,
            cv=GroupKFold(FOLDS),
            l1_ratios=(1.0,),
            solver="liblinear",
            fit_intercept=False,
            random_state=SEED,
            scoring=scorer.set_score_request(probability=True, weight=True),
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        search.fit(
            data.features,
            data.outcome,
            sample_weight=data.probability * data.weight,
            groups=data.example,
            probability=data.probability,
            weight=data.weight,
        )
    return data.result(search.coef_[0], float(search.C_))


def length_control_interval(
    comparisons: Comparisons,
    gamed: Sequence[Comparisons] = (),
    *,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap over prompts of the length-controlled win rate, everything fitted and chosen again.

    The published standard error is the spread of predictions over instructions alone, which is 0 without a difficulty
    and never holds the uncertainty of the fit; this one does.
    """
    example = np.asarray(comparisons.example)
    places = [np.flatnonzero(example == name) for name in np.unique(example)]
    generator = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):
        drawn = np.concatenate([places[i] for i in generator.integers(len(places), size=len(places))])
        rates.append(length_control(comparisons.take(drawn), gamed).win_rate)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(rates, [tail, 1.0 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Design:
    """Each comparison twice, as a win of weight p and as a loss of weight 1 - p: what a classifier can be told of p."""

    features: FloatArray
    outcome: FloatArray
    probability: FloatArray
    weight: FloatArray
    example: npt.NDArray[np.int64]
    predicted: FloatArray
    """Features of the model's own comparisons with the length term at 0."""

    @classmethod
    def of(cls, comparisons: Comparisons, gamed: Sequence[Comparisons]) -> "_Design":
        # Gamed baselines first, as in AlpacaEval: the order decides which folds there are.
        parts = [*((part, 0.0, REGULARISER / len(gamed)) for part in gamed), (comparisons, 1.0, 1.0)]
        preference = np.concatenate([_preference(part) for part, _, _ in parts])
        features = np.concatenate([_features(part, not_gamed) for part, not_gamed, _ in parts])
        weight = np.concatenate([np.full(len(_preference(part)), weight) for part, _, weight in parts])
        example = np.concatenate([np.asarray(part.example) for part, _, _ in parts])
        predicted = _features(comparisons, 1.0)
        predicted[:, 0] = 0.0
        return cls(
            features=np.concatenate([features, features]),
            outcome=np.repeat([1.0, 0.0], len(preference)),
            probability=np.concatenate([preference, 1.0 - preference]),
            weight=np.concatenate([weight, weight]),
            example=np.concatenate([example, example]),
            predicted=predicted,
        )

    def result(self, coefficients: FloatArray, strength: float) -> LengthControl:
        length, *difficulty, model = (float(value) for value in coefficients)
        return LengthControl(
            win_rate=float(expit(self.predicted @ coefficients).mean()),
            length=length,
            difficulty=difficulty[0] if difficulty else 0.0,
            model=model,
            strength=strength,
        )


def _preference(part: Comparisons) -> FloatArray:
    values = np.asarray(part.preference, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError("preferences are [comparisons], probabilities in [0, 1]")
    return values


def _features(part: Comparisons, not_gamed: float) -> FloatArray:
    difference = np.asarray(part.length_difference, dtype=np.float64)
    spread = float(np.std(difference, ddof=1)) if len(difference) > 1 else 0.0
    length = np.tanh(difference / spread) if spread > 0.0 else np.zeros(len(difference))
    difficulty = [] if part.difficulty is None else [np.asarray(part.difficulty, dtype=np.float64)]
    return np.stack([length, *difficulty, np.full(len(length), not_gamed)], axis=1)


def _log_loss(outcome: FloatArray, predicted: FloatArray, probability: FloatArray, weight: FloatArray) -> float:
    """Mean weighted cross-entropy with the preference itself, not with the 0 or 1 that stands for it."""
    preference = np.where(outcome == 1.0, probability, 1.0 - probability)
    certain = np.clip(predicted, 1e-15, 1.0 - 1e-15)
    losses = preference * np.log(certain) + (1.0 - preference) * np.log1p(-certain)
    return -float(np.mean(weight * losses))
