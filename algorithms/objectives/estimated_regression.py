"""Anchored regressions that leave open how win rates are estimated: from candidates of their own or from the pairs.

    opponents       against separate candidates (three-sample form): pairs may come from anywhere
    labels          P of the pair itself (two-sample form): the opponent is whatever sampled the pair
    self_included   among the K candidates, own 1/2 included, divided by K
    pair_excluded   among the K - 2 candidates outside the pair

In all forms but the first the pairs are the opponents, so they come from the policy as it is, and their age is bounded
by `opponent_staleness`. Old opponents can be weighted back to the current policy: w = min(exp(log pi - log behaviour),
`weight_cap`) for each opponent, self-normalised; in the two-sample form each pair is weighted by the product of its
members' w. A group whose effective number of opponents falls under a quarter of their number gets weight 0.
"""

from collections.abc import Hashable, Sequence
from typing import Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from algorithms import win_rates
from algorithms.objectives.anchored_regression import AnchoredRegression, RegressionOptions
from algorithms.pairs import Pairs, distinct_pairs, regression_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan, Update
from algorithms.win_rates import IndexArray

Estimator = Literal["opponents", "labels", "self_included", "pair_excluded"]

# Share of the opponents that a weighted group must be worth to be trained on.
_LEAST_EFFECTIVE_SHARE = 0.25

# Options that say something about separate opponents, or about pairs that are not opponents.
_THREE_SAMPLE_ONLY = ("opponents", "pair_sampler", "pair_temperature", "pair_top_k")


class EstimatorOptions(RegressionOptions):
    """`win_rates`: see the module. `labels`: with the estimator `labels`, P itself or a verdict drawn from it.

    `opponent_correction`: whether old opponents are weighted; `weight_cap`: bound of a weight.
    """

    win_rates: Estimator = "opponents"
    labels: Literal["soft", "hard"] = "soft"
    opponent_correction: Literal["none", "truncated"] = "none"
    weight_cap: float = Field(default=2.0, ge=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        estimator, fields = self.win_rates, type(self).model_fields
        if estimator != "opponents":
            for name in _THREE_SAMPLE_ONLY:
                if getattr(self, name) != fields[name].default:
                    raise ValueError(
                        f"{name} = {getattr(self, name)} needs win_rates 'opponents': with '{estimator}' the pairs "
                        "are the opponents, and come from the policy as it is"
                    )
        if estimator == "pair_excluded" and self.candidates < 3:
            raise ValueError(f"win_rates 'pair_excluded' needs candidates >= 3, got {self.candidates}")
        if estimator != "labels" and self.labels != fields["labels"].default:
            raise ValueError(f"labels = '{self.labels}' needs win_rates 'labels', not '{estimator}'")
        if self.opponent_correction == "truncated":
            self._correctable()
        elif self.weight_cap != fields["weight_cap"].default:
            raise ValueError(f"weight_cap = {self.weight_cap} needs opponent_correction 'truncated'")
        return self

    def _correctable(self) -> None:
        if self.win_rates not in ("opponents", "labels"):
            raise ValueError(
                "opponent_correction 'truncated' is defined for win_rates 'opponents' and 'labels', not for "
                f"'{self.win_rates}'; set it to 'none' or take one of the two"
            )
        if self.win_rates == "opponents" and self.opponents < 2:
            raise ValueError(
                "opponent_correction 'truncated' needs opponents >= 2: the self-normalised weight of a single "
                "opponent is always 1"
            )


class MovingOptions(EstimatorOptions):
    """`momentum`: of APO (2410.06293), see `Update`; its value in the paper is UNCERTAIN."""

    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)


class IterativeOptions(MovingOptions):
    """`step_size`: eta of the mirror step, larger is a larger step. `iteration`: versions between refreshes of pi_t."""

    step_size: float = Field(default=10.0, gt=0.0, allow_inf_nan=False)
    iteration: int = Field(default=1, ge=1)

    def _correctable(self) -> None:
        super()._correctable()
        if self.iteration > 1:
            raise ValueError(
                f"opponent_correction 'truncated' weights opponents to the current policy, but with iteration = "
                f"{self.iteration} they are those of the iterate, which does not age within an iteration; set it to "
                "'none'"
            )


EstimatorT = TypeVar("EstimatorT", bound=EstimatorOptions)
IterativeT = TypeVar("IterativeT", bound=IterativeOptions)


class EstimatedRegression(AnchoredRegression[EstimatorT]):
    """Base of the cases with a choice of estimator."""

    @property
    def corrects_opponents(self) -> bool:
        return self.options.opponent_correction == "truncated"

    @property
    def sampling(self) -> SamplingPlan:
        options = self.options
        if options.win_rates == "opponents":
            return super().sampling
        role = Role(
            name="pair",
            count=options.candidates,
            policies=self.opponent_policies,
            staleness=options.opponent_staleness,
        )
        return SamplingPlan(roles=(role,))

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """All pairs of different candidates, the higher win rate first; weighted if there are log-ratios."""
        options = self.options
        members = np.arange(options.candidates)
        first, second, dropped = distinct_pairs(identity, members)
        opponents = members if options.win_rates == "labels" else np.arange(options.candidates, len(preference))
        weights = None
        if self.corrects_opponents and log_ratios is not None:
            weights = win_rates.truncated_weights(log_ratios[opponents], options.weight_cap)
        rates = self._pair_rates(preference, first, second, seed, weights)
        pairs = regression_pairs(preference, first, second, rates, dropped)
        return pairs if weights is None else self._weighted(pairs, weights)

    def _pair_rates(
        self, preference: FloatArray, first: IndexArray, second: IndexArray, seed: int, weights: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        options = self.options
        match options.win_rates:
            case "pair_excluded":
                return win_rates.pair_excluded(preference, first, second)
            case "labels":
                labels = preference[first, second]
                if options.labels == "hard":
                    labels = (np.random.default_rng(seed).random(len(labels)) < labels).astype(np.float64)
                return win_rates.within_pair(labels)
            case "self_included":
                rates = win_rates.self_included(preference)
            case "opponents":
                rates = win_rates.against(preference, np.arange(options.candidates, len(preference)), weights)
        return rates[first], rates[second]

    def _weighted(self, pairs: Pairs, weights: FloatArray) -> Pairs:
        effective = win_rates.effective_sample_size(weights)
        weight = np.ones(len(pairs))
        if self.options.win_rates == "labels":
            weight = weights[pairs.first] * weights[pairs.second]
        if effective < _LEAST_EFFECTIVE_SHARE * len(weights):
            weight = np.zeros(len(pairs))
        return pairs.weighted(weight, effective)


class IterativeRegression(EstimatedRegression[IterativeT]):
    """Base of the cases whose anchor is the iterate pi_t and whose step is in the target."""

    @property
    def policy(self) -> str:
        return "iterate" if self.options.iteration > 1 else "current"

    @property
    def scale(self) -> float:
        return self.options.step_size

    @property
    def update(self) -> Update:
        return Update(iteration=self.options.iteration, momentum=self.options.momentum)
