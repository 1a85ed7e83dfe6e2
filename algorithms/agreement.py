"""How far a judge can be trusted: accuracy, consistency over both orders, position bias, agreement with people.

A verdict is +1 where the first of the two answers shown is preferred, -1 where the second is, 0 for a tie, and NaN
where the judge gave none that could be read. Labels are verdicts about the pair in its first order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeAgreement:
    """What n pairs, each judged in both orders, say of a judge; all are shares of the pairs."""

    accuracy: float
    """Both orders together prefer the labelled answer: more orders say so than say the opposite (JudgeBench)."""
    ties: float
    """Both orders together prefer neither."""
    accuracy_per_order: float
    """Mean accuracy of the two orders, each on its own (LLMBar)."""
    consistency: float
    """The second order's verdict is that of the first with the sides exchanged; a missing verdict is never consistent.
    JudgeBench counts 1 minus this, LLMBar calls it agreement."""
    position_bias: float
    """Mean verdict for whichever answer is shown first, from -1 to 1; 0 is unbiased."""


def judge_agreement(first: npt.ArrayLike, second: npt.ArrayLike, labels: npt.ArrayLike) -> JudgeAgreement:
    """Agreement of a judge with labels, from its verdicts in both orders.

    first: [n] verdicts. second: [n] verdicts on the same pairs with the two answers exchanged, as the judge said them.
    labels: [n], +1 or -1. Sources: JudgeBench (arXiv 2410.12784), LLMBar (arXiv 2310.07641), their evaluation code.
    Raises: ValueError for lengths that differ, no pairs, or anything that is no verdict.
    """
    one, other, truth = _verdicts(first), _verdicts(second), _verdicts(labels)
    if not len(one) == len(other) == len(truth):
        raise ValueError(f"{len(one)} and {len(other)} verdicts for {len(truth)} labels; each pair needs one a order")
    if not np.isin(truth, (-1.0, 1.0)).all():
        raise ValueError("labels are +1 or -1: a pair without a preferred answer can't be judged right or wrong")
    votes = (np.nan_to_num(one) - np.nan_to_num(other)) * truth
    return JudgeAgreement(
        accuracy=float((votes > 0.0).mean()),
        ties=float((votes == 0.0).mean()),
        accuracy_per_order=float(((one == truth).mean() + (other == -truth).mean()) / 2.0),
        consistency=float((one == -other).mean()),
        position_bias=float((np.nan_to_num(one) + np.nan_to_num(other)).mean() / 2.0),
    )


def majority_verdict(verdicts: npt.ArrayLike) -> FloatArray:
    """The verdict that most of A annotators gave, [n, A] -> [n]; a tie (0) is a verdict like the others.

    NaN where no verdict leads: two have equally many votes, or nobody gave one.
    """
    table = np.asarray(verdicts, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"verdicts of annotators are [pairs, annotators], got shape {table.shape}")
    kinds = np.array([-1.0, 0.0, 1.0])
    votes = (table[:, :, None] == kinds).sum(axis=1)
    leading = votes == votes.max(axis=1, keepdims=True)
    return np.where(leading.sum(axis=1) == 1, kinds[leading.argmax(axis=1)], np.nan)


def agreement(verdicts: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Share of pairs where both verdicts [n] are the same, ties included; a missing one agrees with nothing.

    Pairs without a reference verdict are left out.
    """
    given, wanted = _verdicts(verdicts), _verdicts(reference)
    if len(given) != len(wanted):
        raise ValueError(f"{len(given)} verdicts for {len(wanted)} references")
    known = ~np.isnan(wanted)
    if not known.any():
        raise ValueError("no pair has a reference verdict")
    return float((given == wanted)[known].mean())


def _verdicts(values: npt.ArrayLike) -> FloatArray:
    verdicts = np.asarray(values, dtype=np.float64)
    if verdicts.ndim != 1 or not verdicts.size:
        raise ValueError(f"verdicts are [pairs], at least one; got shape {verdicts.shape}")
    if not (np.isnan(verdicts) | np.isin(verdicts, (-1.0, 0.0, 1.0))).all():
        raise ValueError("a verdict is +1 (first), -1 (second), 0 (tie) or NaN (none)")
    return verdicts
