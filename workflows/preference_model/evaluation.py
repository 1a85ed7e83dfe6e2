"""What a trained preference model says of held-out data, and figures of how far that can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from scipy import stats

from actors.preference_data import Comparison, Rating, Record
from actors.reward_models import PairClassifier, RewardModel, load_preference_model
from algorithms.calibration import FloatArray, accuracy, calibration, length_bias, position_bias

SURE = (0.25, 0.75)
"""Probabilities that stand for a baseline's verdicts; only their side of 1/2 counts."""


def predict(folder: str, records: Sequence[Record], threads: int, token_budget: int) -> FloatArray:
    """P(first > second) of N comparisons, [N, 1], or for a pair classifier P(the one shown first wins) in both orders,
    [N, 2]; of N ratings the predicted scores, [N, H]."""
    torch.set_num_threads(threads)
    model = load_preference_model(folder, token_budget=token_budget)
    rows = []
    for record in records:
        if isinstance(record, Rating):
            assert isinstance(model, RewardModel)
            rows.append(model.scores(record.messages, [record.response])[0])
            continue
        texts = [record.first, record.second]
        if isinstance(model, PairClassifier):
            orders = model.orders(record.messages, texts)
            rows.append(np.array([orders[0, 1], orders[1, 0]]))
        else:
            rows.append(model.matrix(record.messages, texts)[0, 1:])
    return np.stack(rows)


def comparison_figures(
    predictions: FloatArray, heldout: Sequence[Comparison], train: Sequence[Comparison]
) -> dict[str, Any]:
    """Figures of `predict` on comparisons; baselines learn from `train` which place, and which length, wins more often.

    Position bias is what both orders show; a model that reads one response at a time has none by construction.
    """
    both = predictions.shape[1] == 2
    probabilities = (predictions[:, 0] + 1.0 - predictions[:, 1]) / 2.0 if both else predictions[:, 0]
    targets = _targets(heldout)
    longer = _longer(heldout)
    lengths = (np.array([float(len(getattr(r, side))) for r in heldout]) for side in ("first", "second"))
    by_length = np.sign(_longer(train) * np.sign(_targets(train) - 0.5)).sum() >= 0
    by_place = np.sign(_targets(train) - 0.5).sum() >= 0
    return {
        "n": len(heldout),
        "ties": int(np.count_nonzero(targets == 0.5)),
        "accuracy": asdict(accuracy(probabilities, targets)),
        "baselines": {
            f"always the {'first' if by_place else 'second'}": asdict(
                accuracy(np.full(len(heldout), SURE[int(by_place)]), targets)
            ),
            f"the {'longer' if by_length else 'shorter'}": asdict(
                accuracy(0.5 + (longer if by_length else -longer) / 4.0, targets)
            ),
        },
        "cross_entropy": _cross_entropy(probabilities, targets),
        "calibration": asdict(calibration(probabilities, targets)),
        "length_bias": asdict(length_bias(probabilities, targets, *lengths)),
        "position_bias": asdict(position_bias(predictions[:, 0], predictions[:, 1])) if both else None,
    }


def rating_figures(predictions: FloatArray, heldout: Sequence[Rating], train: Sequence[Rating]) -> dict[str, Any]:
    """Figures of `predict` on ratings, by attribute: root mean squared error, that of always predicting the mean of
    `train`, and the share of pairs of responses that are ordered right (Kendall's tau-b as a share)."""
    lengths = np.array([float(len(rating.response)) for rating in heldout])
    figures = {}
    for column, name in enumerate(heldout[0].scores):
        given = np.array([rating.scores[name] for rating in heldout])
        present = ~np.isnan(given)
        given, predicted = given[present], predictions[present, column]
        mean = np.nanmean([rating.scores[name] for rating in train])
        figures[name] = {
            "n": len(given),
            "error": _root_mean_square(predicted - given),
            "error_of_mean": _root_mean_square(mean - given),
            "ordered": _ordered(predicted, given),
            "longer_is_higher": {
                "model": _ordered(predicted, lengths[present]),
                "data": _ordered(given, lengths[present]),
            },
        }
    return {"n": len(heldout), "attributes": figures}


def _targets(comparisons: Sequence[Comparison]) -> FloatArray:
    return np.array([comparison.target for comparison in comparisons])


def _longer(comparisons: Sequence[Comparison]) -> FloatArray:
    """1 where the first response is longer, in characters, -1 where the second is."""
    return np.array([float(np.sign(len(c.first) - len(c.second))) for c in comparisons])


def _cross_entropy(probabilities: FloatArray, targets: FloatArray) -> float:
    """Nats; log 2 = 0.693 for a model that knows nothing."""
    bounded = np.clip(probabilities, 1e-12, 1.0 - 1e-12)
    return float(-(targets * np.log(bounded) + (1.0 - targets) * np.log1p(-bounded)).mean())


def _root_mean_square(values: FloatArray) -> float | None:
    return float(np.sqrt(np.mean(values**2))) if len(values) else None


def _ordered(predicted: FloatArray, given: FloatArray) -> float | None:
    tau = float(stats.kendalltau(predicted, given).statistic) if len(given) > 1 else math.nan
    return None if math.isnan(tau) else (1.0 + tau) / 2.0
