"""One chat request with a selection, from what it prefers to the best of its candidates.

What is asked for is checked before anything is generated. The order comes from `algorithms/selection`; here it is only
asked for and reported.
"""

import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from algorithms.selection import rules
from algorithms.selection.directions import FloatArray, at_angle, direction, grid, sampled, von_mises_concentration
from algorithms.selection.rules import IndexArray, NothingScored
from serving.errors import ServingError, bad_request
from serving.metrics import Metrics
from serving.prompts import Messages, conditioned
from serving.schema import CandidateReport, ChatRequest, Preference, Selection, SelectionReport
from serving.scoring import Comparisons, Rewards
from serving.settings import Settings

Body = dict[str, Any]
UNSELECTED = Selection(method="none", k=1)
SEEDS = 2**62
"""Seeds of candidates are below; vLLM takes 63 bits."""


class Backend(Protocol):
    """Who writes and who scores."""

    def candidates(self, bodies: Sequence[Body]) -> Awaitable[tuple[int, list[Body]]]:
        """The version, and whole answers or errors, in order."""

    def rewards(self, messages: Messages, answers: list[str]) -> Awaitable[Rewards]:
        """Reward vectors of answers to one conversation."""

    def compare(self, messages: Messages, answers: list[str]) -> Awaitable[Comparisons]:
        """Who of the answers to one conversation is preferred to whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked of the policy: the preferred direction, and the direction that each candidate is written for."""

    target: FloatArray | None
    written_for: tuple[FloatArray | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Candidates in order, the best first, with what was found about each."""

    order: IndexArray
    scores: FloatArray
    rewards: Sequence[dict[str, float] | None]
    problems: Sequence[str | None]


class Selector:
    """Answers chat requests that carry `selection` or `preference`."""

    def __init__(self, settings: Settings, backend: Backend, metrics: Metrics) -> None:
        self._settings = settings
        self._backend = backend
        self._metrics = metrics
        self._objectives = tuple(settings.scorers)
        self.preference: Preference | None = settings.served.preference
        """What a selection prefers when its request does not say so."""

    def plan(self, request: ChatRequest) -> Plan:
        """Raises: `ServingError` 400 for what cannot be selected, with what is allowed."""
        selection = request.selection or UNSELECTED
        self._check(request, selection)
        preference = request.preference
        if preference is None and request.selection is not None:
            preference = self.preference
        target = None if preference is None else self.direction_of(preference, "preference")
        if target is None and selection.method == "rps":
            raise bad_request(f"rps needs a preference: weights of {self._named()}, or an angle", "preference")
        if target is None and selection.method not in ("none", "tournament") and len(self._objectives) > 1:
            raise bad_request(f"{selection.method} needs a preference: weights of {self._named()}", "preference")
        if selection.method == "none":
            return Plan(target=target, written_for=(target,))
        if target is None or selection.method != "rps":
            return Plan(target=target, written_for=(target,) * selection.k)
        return Plan(target=target, written_for=tuple(self._neighbours(target, selection)))

    async def answer(self, request: ChatRequest, body: Body, plan: Plan) -> tuple[int, Body]:
        """The version, and the answer with the best `n` of the candidates as its choices.

        Raises: `ServingError` when the policy refuses the request or no candidate can be scored.
        """
        selection = request.selection or UNSELECTED
        version, answers = await self._backend.candidates(self._bodies(body, selection, plan))
        for answer in answers:
            if "error" in answer:
                raise refused(answer)
        texts = [answer["choices"][0]["message"]["content"] or "" for answer in answers]
        found = await self._scored(selection, plan, list(body["messages"]), texts)
        self._count(selection, answers, found)
        return version, self._merged(request, selection, plan, version, answers, texts, found)

    def told(self, body: Body, plan: Plan) -> Body:
        """The plain request of a chat that prefers something and selects nothing."""
        return _plain(body) | {"messages": self._conditioned(body["messages"], plan.target)}

    def report(self, selection: Selection, plan: Plan, version: int) -> SelectionReport:
        """What was done, without what was found."""
        return SelectionReport(
            method=selection.method,
            version=version,
            k=len(plan.written_for),
            direction=None if plan.target is None else self._weights(plan.target),
            scored_by=self._scored_by(selection),
        )

    def _bodies(self, body: Body, selection: Selection, plan: Plan) -> list[Body]:
        """One plain request for each candidate; their seeds differ, and are the same again for the same request."""
        seed = body.get("seed")
        first = selection.seed if seed is None else seed
        return [
            _plain(body)
            | {
                "n": 1,
                "stream": False,
                "seed": (first + place) % SEEDS,
                "messages": self._conditioned(body["messages"], written_for),
            }
            for place, written_for in enumerate(plan.written_for)
        ]

    def direction_of(self, preference: Preference, param: str) -> FloatArray:
        """The unit vector over the objectives. Raises: `ServingError` 400."""
        names = self._objectives
        if len(names) < 2:
            raise bad_request(
                f"a preference weighs two or more objectives, and this service scores {self._named()}", param
            )
        try:
            if isinstance(preference, dict):
                if unknown := [name for name in preference if name not in names]:
                    raise bad_request(
                        f"unknown objective {unknown[0][:80]!r}; this service scores {self._named()}", param
                    )
                return direction([preference.get(name, 0.0) for name in names])
            if len(names) != 2:
                raise bad_request(f"an angle says what is preferred of two objectives, not of {self._named()}", param)
            return at_angle(preference)
        except ValueError as error:
            raise bad_request(str(error), param) from None

    def _check(self, request: ChatRequest, selection: Selection) -> None:
        method, most = selection.method, self._settings.limits.candidates
        if selection.k > most:
            raise bad_request(f"k = {selection.k} candidates are more than the {most} that are allowed", "selection.k")
        if method == "none":
            return
        if request.stream:
            raise bad_request(
                f"{method} chooses among whole answers, which can't be streamed; leave out stream", "stream"
            )
        if (request.n or 1) > selection.k:
            raise bad_request(f"n = {request.n} answers can't be chosen from k = {selection.k} candidates", "n")
        if method == "tournament" and not self._settings.judge:
            raise bad_request("this service has no judge, so there are no tournaments", "selection.method")
        if method != "tournament" and not self._objectives:
            raise bad_request(f"this service has no scorers, so there is no {method}", "selection.method")

    def _neighbours(self, target: FloatArray, selection: Selection) -> list[FloatArray]:
        k, theta_max = selection.k, selection.theta_max
        toward = None if selection.toward is None else self.direction_of(selection.toward, "selection.toward")
        try:
            if selection.neighborhood == "grid":
                return list(grid(target, k, theta_max, toward=toward))
            concentration = von_mises_concentration(theta_max) if selection.neighborhood == "von_mises" else 0.0
            return list(sampled(target, k, theta_max, selection.seed, concentration, toward))
        except ValueError as error:
            raise bad_request(str(error), "selection") from None

    def _conditioned(self, messages: Sequence[Mapping[str, Any]], written_for: FloatArray | None) -> list[Body]:
        if written_for is None:
            return [dict(message) for message in messages]
        try:
            return conditioned(messages, self._settings.template, self._weights(written_for))
        except ValueError as error:
            raise bad_request(str(error), "messages") from None

    def _weights(self, vector: FloatArray) -> dict[str, float]:
        return dict(zip(self._objectives, vector.tolist(), strict=True))

    async def _scored(self, selection: Selection, plan: Plan, messages: list[Body], texts: list[str]) -> Scored:
        first, kinds = rules.distinct(texts)
        different = [texts[place] for place in first]
        if selection.method == "tournament":
            matrix, problem = await self._backend.compare(messages, different)
            if problem:
                raise ServingError(500, f"no candidate can be compared: {problem}", kind="server_error", code="scoring")
            preference = np.array(matrix)[np.ix_(kinds, kinds)]
            nothing = [None] * len(texts)
            order, rates = rules.tournament(preference), preference.mean(axis=1)
            return Scored(order=order, scores=rates, rewards=nothing, problems=nothing)
        found, wrong = await self._backend.rewards(messages, different)
        rewards, problems = [found[kind] for kind in kinds], [wrong[kind] for kind in kinds]
        vectors = [[row[name] if row else np.nan for name in self._objectives] for row in rewards]
        scores = rules.projected(vectors, np.ones(1) if plan.target is None else plan.target)
        try:
            return Scored(order=_order(selection, scores, texts), scores=scores, rewards=rewards, problems=problems)
        except NothingScored:
            message = f"no candidate could be scored: {problems[0]}"
            raise ServingError(500, message, kind="server_error", code="scoring") from None

    def _count(self, selection: Selection, answers: Sequence[Body], found: Scored) -> None:
        tags: dict[str, str] = {"method": selection.method}
        self._metrics.candidates.inc(len(answers), tags)
        self._metrics.tokens.inc(sum(answer["usage"]["completion_tokens"] for answer in answers), tags)
        if unscored := int(np.isnan(found.scores).sum()):
            self._metrics.unscored.inc(unscored, tags)
        self._metrics.gain.observe(float(found.scores[found.order[0]] - np.nanmean(found.scores)), tags)

    def _merged(
        self,
        request: ChatRequest,
        selection: Selection,
        plan: Plan,
        version: int,
        answers: Sequence[Body],
        texts: Sequence[str],
        found: Scored,
    ) -> Body:
        chosen = found.order[: request.n or 1].tolist()
        report = self.report(selection, plan, version).model_copy(
            update={
                "scored": int(np.isfinite(found.scores).sum()),
                "candidates": self._candidates(plan, texts, found) if selection.return_candidates else None,
            }
        )
        best: Body = answers[chosen[0]]
        choices = [answers[place]["choices"][0] | {"index": index} for index, place in enumerate(chosen)]
        found_out = report.model_dump(exclude_none=True)
        return best | {"choices": choices, "usage": _total_usage(answers), "nashloop": found_out}

    def _candidates(self, plan: Plan, texts: Sequence[str], found: Scored) -> list[CandidateReport]:
        return [
            CandidateReport(
                text=text,
                direction=None if written_for is None else self._weights(written_for),
                rewards=rewards,
                score=float(score) if np.isfinite(score) else None,
                problem=problem,
            )
            for text, written_for, rewards, score, problem in zip(
                texts, plan.written_for, found.rewards, found.scores, found.problems, strict=True
            )
        ]

    def _scored_by(self, selection: Selection) -> dict[str, str]:
        if selection.method == "none":
            return {}
        if selection.method == "tournament":
            return {"judge": str(self._settings.judge)}
        return dict(self._settings.scorers)

    def _named(self) -> str:
        return ", ".join(self._objectives) or "no objective"


def refused(answer: Body) -> ServingError:
    """The error that vLLM answered with."""
    error = answer["error"]
    status = error.get("code") if isinstance(error.get("code"), int) else 400
    return ServingError(
        status, error["message"], kind=error.get("type") or "invalid_request_error", param=error.get("param")
    )


def _plain(body: Body) -> Body:
    return {name: value for name, value in body.items() if name not in ("selection", "preference")}


def _order(selection: Selection, scores: FloatArray, texts: Sequence[str]) -> IndexArray:
    if selection.method == "soft_best_of_n":
        return rules.soft_best_of_n(scores, selection.temperature, selection.seed)
    if selection.method == "best_of_majority":
        return rules.best_of_majority(scores, [plain_answer(text) for text in texts], selection.alpha)
    return rules.best_of_n(scores)


def plain_answer(text: str) -> str:
    """What two answers are compared by for agreement: their words, whatever their case, spaces and marks."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _total_usage(answers: Sequence[Body]) -> Body:
    """What was really computed: the tokens of all candidates."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: sum(answer["usage"][name] for answer in answers) for name in names}
