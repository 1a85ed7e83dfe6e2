"""From judged answers to the figures of `evaluation.json`.

The first policy is the one that all others are measured against. Every interval resamples prompts, never answers, and
a resampled prompt brings all answers to it: comparisons are paired.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.records import Group
from algorithms.best_of_n import best_of_n, kl_of_best_of_n
from algorithms.diversity import distinct_n
from algorithms.elo import elo_ratings
from algorithms.entanglement import Entanglement
from algorithms.intervals import mean_interval, win_rate_interval
from algorithms.length_control import Comparisons, LengthControl, length_control, length_control_interval
from algorithms.preference import FloatArray
from algorithms.ranking_accuracy import idealised_accuracy, ranking_accuracy
from algorithms.tournament import Standings, standings
from workflows.answers import mean_length, outcomes, verdict
from workflows.evaluate.likelihood import Likelihoods, Measured

IDEAL_BETAS = (0.01, 0.1, 1.0, 5.0, 10.0)
"""Of the idealised ranking accuracy (2405.19534)."""
PER_TOKEN = ("entropy", "top_mass", "top_entropy", "top_renormalised_entropy")
FEWEST_PROMPTS = 20
"""Fewer say nothing of lengths: cross-validation splits them in five, and a bootstrap leaves a third of them out."""
RESAMPLES = 100
"""Of the length control, which is fitted again each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The same groups as judged by the panel and, where there is one, by the gold scorers; [Q] each."""

    names: tuple[str, ...]
    proxy: Sequence[Group]
    gold: Sequence[Group] | None

    def places(self, name: str, group: Group) -> npt.NDArray[np.int64]:
        """Places of a policy's answers in a group."""
        return np.array([k for k, c in enumerate(group.candidates) if c.policy == name], dtype=np.int64)

    def panels(self) -> dict[str, Sequence[Group]]:
        """`proxy`, and `gold` where there is one."""
        return {"proxy": self.proxy} | ({"gold": self.gold} if self.gold is not None else {})


def summarise(judged: Judged, measured: Mapping[str, Measured], *, elo: bool, seed: int) -> dict[str, Any]:
    """Every figure, by policy and of the round robin."""
    rates = {panel: outcomes(groups, judged.names) for panel, groups in judged.panels().items()}
    found = standings(rates["proxy"], seed=seed)
    policies = {
        name: _policy(judged, rates, measured.get(name), place, seed) for place, name in enumerate(judged.names)
    }
    figures: dict[str, Any] = {
        "against": judged.names[0],
        "prompts": len(judged.proxy),
        "policies": policies,
        "round_robin": _round_robin(judged.names, found),
    }
    if elo:
        means = rates["proxy"].mean(axis=0)
        figures["elo"] = dict(zip(judged.names, elo_ratings(means, len(judged.proxy)).tolist(), strict=True))
    return figures


def _policy(
    judged: Judged, rates: Mapping[str, FloatArray], measured: Measured | None, place: int, seed: int
) -> dict[str, Any]:
    name, against = judged.names[place], judged.names[0]
    own = [[group.candidates[k] for k in judged.places(name, group)] for group in judged.proxy]
    answers = [candidate for answered in own for candidate in answered]
    tokens = [candidate.token_ids.tolist() for candidate in answers]
    figures: dict[str, Any] = {
        "tokens": mean_length(judged.proxy, name),
        "characters": float(np.mean([len(candidate.text) for candidate in answers])),
        "truncated": float(np.mean([candidate.truncated for candidate in answers])),
        "distinct": {str(n): share for n in (1, 2, 3) if not math.isnan(share := distinct_n(tokens, n))},
        "best_of_n": _best_of_n(judged, name, seed),
    }
    if place:
        for panel, table in rates.items():
            figures[f"{panel}_win_rate"] = asdict(win_rate_interval(np.clip(table[:, place, 0], 0, 1), seed=seed))
        figures["ties"] = _ties(judged, name, against)
        figures["length_controlled"] = _length_controlled(judged, name, seed)
    if measured is not None:
        figures["likelihood"] = _likelihood(judged, measured, seed)
    return figures


def _round_robin(names: Sequence[str], found: Standings) -> dict[str, Any]:
    return {
        "win_rates": {
            row: {column: asdict(rate) for column, rate in zip(names, rates, strict=True)}
            for row, rates in zip(names, found.win_rates, strict=True)
        },
        "equilibrium": dict(zip(names, found.equilibrium.tolist(), strict=True)),
        "exploitability": dict(zip(names, found.exploitability.tolist(), strict=True)),
    }


def _ties(judged: Judged, name: str, against: str) -> float:
    """Share of meetings with probability 1/2."""
    blocks = [verdict(g)[np.ix_(judged.places(name, g), judged.places(against, g))] for g in judged.proxy]
    return float(np.mean([(block == 0.5).mean() for block in blocks]))


def _length_controlled(judged: Judged, name: str, seed: int) -> dict[str, Any] | None:
    """Sample by sample, as AlpacaEval compares one answer with one; none with too few prompts."""
    if len(judged.proxy) < FEWEST_PROMPTS:
        return None
    rows = [
        (verdict(group)[i, j], len(group.candidates[j].text) - len(group.candidates[i].text), group.index)
        for group in judged.proxy
        for i, j in zip(judged.places(name, group), judged.places(judged.names[0], group), strict=True)
    ]
    preference, difference, example = map(np.array, zip(*rows, strict=True))
    comparisons = Comparisons(preference=preference, length_difference=difference, example=example)
    found: LengthControl = length_control(comparisons)
    low, high = length_control_interval(comparisons, resamples=RESAMPLES, seed=seed)
    return {"mean": found.win_rate, "low": low, "high": high, "length": found.length, "model": found.model}


def _best_of_n(judged: Judged, name: str, seed: int) -> list[dict[str, Any]]:
    """Proxy and gold win rate against the first policy of the answer that the proxy likes best among n."""
    panels = judged.panels()
    worth = {panel: [_scores(judged, name, group) for group in groups] for panel, groups in panels.items()}
    count = min(len(scores) for scores in worth["proxy"])
    curve = []
    for n in sorted({*(2**power for power in range(count.bit_length()) if 2**power <= count), count} - {0}):
        row: dict[str, Any] = {"n": n, "kl": kl_of_best_of_n(n)}
        for panel, scores in worth.items():
            values = [best_of_n(liked, own, n) for liked, own in zip(worth["proxy"], scores, strict=True)]
            row[panel] = asdict(mean_interval(values, seed=seed))
        curve.append(row)
    return curve


def _scores(judged: Judged, name: str, group: Group) -> FloatArray:
    """Win rates of a policy's answers against the first policy's answers to the same prompt.

    The first policy's own are split: half are candidates and half are opponents, for an answer must not be compared
    with those that it was chosen from.
    """
    own, opponents = judged.places(name, group), judged.places(judged.names[0], group)
    if name == judged.names[0]:
        half = len(own) // 2
        own, opponents = own[:half], opponents[half:]
    return np.asarray(verdict(group)[np.ix_(own, opponents)].mean(axis=1), dtype=np.float64)


def _likelihood(judged: Judged, measured: Measured, seed: int) -> dict[str, Any]:
    rows = measured.likelihoods
    own = rows.own == 1.0
    prompts = np.unique(rows.prompt)

    def interval(values: FloatArray) -> dict[str, Any]:
        """Over prompts, of the mean over a prompt's answers."""
        return asdict(mean_interval([values[own & (rows.prompt == prompt)].mean() for prompt in prompts], seed=seed))

    tokens = rows.tokens[own].sum()
    return {
        "prompts": len(prompts),
        **{name: interval(getattr(rows, name)) for name in ("kl", "k1", "k2", "k3")},
        **{name: float(getattr(rows, name)[own].sum() / tokens) for name in PER_TOKEN},
        "engine_mismatch": float(np.abs(rows.engine - rows.logprob)[own].sum() / tokens),
        "ranking": _ranking(judged, rows),
        "entanglement": _entanglement(measured.products),
    }


def _ranking(judged: Judged, rows: Likelihoods) -> dict[str, Any] | None:
    """On pairs of the first policy's answers that the panel tells apart; none where it tells none apart."""
    by_prompt = {group.index: group for group in judged.proxy}
    pairs = []
    for prompt in np.unique(rows.prompt):
        group, here = by_prompt[int(prompt)], rows.prompt == prompt
        # A policy that is its own reference has answers only of its own.
        written = here & (rows.own == (0.0 if (here & (rows.own == 0.0)).any() else 1.0))
        of_policy, of_reference, tokens = rows.logprob[written], rows.reference[written], rows.tokens[written]
        places = judged.places(judged.names[0], group)
        matrix = verdict(group)[np.ix_(places, places)]
        pairs += [
            (of_policy[i], of_policy[j], of_reference[i], of_reference[j], tokens[i], tokens[j], matrix[i, j])
            for i, j in np.argwhere(matrix > 0.5)
        ]
    if not pairs:
        return None
    chosen, rejected, reference_chosen, reference_rejected, chosen_tokens, rejected_tokens, share = np.array(pairs).T
    ideal = {f"{beta:g}": idealised_accuracy(reference_chosen, reference_rejected, share, beta) for beta in IDEAL_BETAS}
    return {
        "pairs": len(pairs),
        "accuracy": ranking_accuracy(chosen, rejected),
        "accuracy_per_token": ranking_accuracy(chosen, rejected, (chosen_tokens, rejected_tokens)),
        "reference_accuracy": ranking_accuracy(reference_chosen, reference_rejected),
        "idealised": ideal,
    }


def _entanglement(products: FloatArray) -> dict[str, Any] | None:
    if not len(products):
        return None
    found = Entanglement.of(products)
    rises, falls = found.moves_right()
    return {
        "pairs": len(products),
        "ratio": float(found.ratio().mean()),
        "cosine": float(found.cosine().mean()),
        "chosen_rises": float(rises.mean()),
        "rejected_falls": float(falls.mean()),
    }
