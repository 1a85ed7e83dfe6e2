"""Does Robust Preference Selection help? `python -m serving.evaluate --url http://127.0.0.1:8000 --prompts FILE`.

For each preferred angle and prompt the service chooses twice among the same number k of candidates: with `rps`, whose
candidates are written for neighbouring directions, and with `best_of_n`, whose candidates are all written for the
preferred one. What is compared is the chosen answer's reward along the preferred direction, prompt by prompt; and, by
the service's judge where it has one, the answers themselves; both also with the effect of their length taken out. What
the candidates written for each angle are rewarded with shows whether the policy follows directions at all.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from actors.prompts import PromptError, load_prompts
from algorithms.intervals import win_rate_interval
from algorithms.length_control import FOLDS, Comparisons, length_control
from algorithms.selection.comparison import PairedComparison, compare
from serving.asking import ServiceError, checked, client_of, gathered, wait_until_ready
from serving.evaluate_report import write_report

METHODS = ("rps", "best_of_n")
SEED_STRIDE = 1000
"""Between the seeds of two prompts, and half of it between the two methods: no two share a candidate's seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one method chose for one prompt."""

    text: str
    score: float
    mean_score: float
    """Of all its candidates: what choosing at random would have had."""
    mean_rewards: dict[str, float]
    """Of all its candidates, by objective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an independent judge says of rps against best-of-n."""

    mean: float
    low: float
    high: float
    length_controlled: float | None
    """None with too few prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AngleResult:
    """One preferred direction: rps against best-of-n with equal numbers of candidates."""

    angle: float
    covered: bool
    """Whether training covered it: then it is a negative control, and rps should not win."""
    k: int
    comparison: PairedComparison
    length_controlled: float | None
    """Win rate if the answers were as long; none with too few prompts."""
    scores: dict[str, float]
    """For each method, the mean score of what it chose."""
    gain_of_choosing: dict[str, float]
    """For each method, the chosen score above the mean of its candidates."""
    words: dict[str, float]
    """Mean length of what each method chose."""
    written: dict[str, float]
    """Mean rewards of the answers that were written for this direction, by objective."""
    judge: Verdict | None


async def evaluate(
    client: httpx.AsyncClient,
    prompts: Sequence[str],
    angles: Sequence[float],
    trained: tuple[float, float],
    *,
    at_once: int = 8,
    **asked: Any,
) -> list[AngleResult]:
    """One result an angle; `asked` is passed on to `chosen`.

    Raises: `ServiceError` for a request that the service refuses.
    """
    slots = asyncio.Semaphore(at_once)
    cases = [(angle, method) for angle in angles for method in METHODS]
    requests = [
        chosen(client, slots, prompt, angle, method, seed=_seed(number, method), **asked)
        for angle, method in cases
        for number, prompt in enumerate(prompts)
    ]
    answered = await gathered("choosing", requests)
    of_case = {case: answered[i * len(prompts) : (i + 1) * len(prompts)] for i, case in enumerate(cases)}
    results = []
    for angle in angles:
        answers = {method: of_case[angle, method] for method in METHODS}
        judged = await _judged(client, prompts, answers)
        results.append(summarise(angle, trained[0] <= angle <= trained[1], asked["k"], answers, judged))
    return results


async def chosen(
    client: httpx.AsyncClient,
    slots: asyncio.Semaphore,
    prompt: str,
    angle: float,
    method: str,
    *,
    seed: int,
    k: int,
    model: str,
    max_tokens: int,
    theta_max: float = 30.0,
    neighborhood: str = "grid",
    temperature: float = 0.7,
) -> Choice:
    """What a method chooses for a prompt, when one of the `slots` is free."""
    selection = {"k": k, "theta_max": theta_max, "neighborhood": neighborhood, "return_candidates": True}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "preference": angle,
        "selection": selection | {"method": method},
    }
    async with slots:
        answer = checked(await client.post("/v1/chat/completions", json=body))
    scored = [candidate for candidate in answer["nashloop"]["candidates"] if "score" in candidate]
    scores = [candidate["score"] for candidate in scored]
    return Choice(
        text=answer["choices"][0]["message"]["content"],
        score=max(scores),
        mean_score=float(np.mean(scores)),
        mean_rewards=_mean([candidate["rewards"] for candidate in scored]),
    )


def _seed(number: int, method: str) -> int:
    return SEED_STRIDE * number + METHODS.index(method) * SEED_STRIDE // 2


def summarise(
    angle: float, covered: bool, k: int, answers: dict[str, list[Choice]], judged: Sequence[float] | None
) -> AngleResult:
    """The figures of one angle. `judged`: probability that the judge prefers what rps chose, prompt by prompt."""
    ours, theirs = (answers[method] for method in METHODS)
    comparison = compare([choice.score for choice in ours], [choice.score for choice in theirs])
    wins = [(np.sign(one.score - other.score) + 1.0) / 2.0 for one, other in zip(ours, theirs, strict=True)]
    return AngleResult(
        angle=angle,
        covered=covered,
        k=k,
        comparison=comparison,
        length_controlled=_length_controlled(wins, ours, theirs),
        scores={method: float(np.mean([choice.score for choice in answers[method]])) for method in METHODS},
        gain_of_choosing={
            method: float(np.mean([choice.score - choice.mean_score for choice in answers[method]]))
            for method in METHODS
        },
        words={method: float(np.mean([len(choice.text.split()) for choice in answers[method]])) for method in METHODS},
        written=_mean([choice.mean_rewards for choice in theirs]),
        judge=None if judged is None else _verdict(judged, ours, theirs),
    )


def _verdict(judged: Sequence[float], ours: Sequence[Choice], theirs: Sequence[Choice]) -> Verdict:
    rate = win_rate_interval(judged)
    controlled = _length_controlled(judged, ours, theirs)
    return Verdict(mean=rate.mean, low=rate.low, high=rate.high, length_controlled=controlled)


def _length_controlled(preferred: Sequence[float], ours: Sequence[Choice], theirs: Sequence[Choice]) -> float | None:
    """Of the probabilities that what rps chose is preferred, prompt by prompt."""
    if len(preferred) < FOLDS:
        return None
    shorter = [len(other.text) - len(one.text) for one, other in zip(ours, theirs, strict=True)]
    found = length_control(
        Comparisons(preference=preferred, length_difference=shorter, example=np.arange(len(preferred)))
    )
    return found.win_rate


def _mean(rewards: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rewards])) for name in rewards[0]}


async def _judged(
    client: httpx.AsyncClient, prompts: Sequence[str], answers: dict[str, list[Choice]]
) -> list[float] | None:
    """Probability that the judge prefers what rps chose; none where the service has no judge."""
    found = []
    for prompt, ours, theirs in zip(prompts, *(answers[method] for method in METHODS), strict=True):
        asked = {"prompt": prompt, "responses": [ours.text, theirs.text]}
        answer = await client.post("/v1/preferences", json=asked)
        if answer.status_code == 400 and "no judge" in answer.text:
            return None
        found.append(float(checked(answer)["matrix"][0][1]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        prompts = [record.messages[-1]["content"] for record in load_prompts(arguments.prompts)[: arguments.count]]
        results = asyncio.run(_run(arguments, prompts))
    except (ServiceError, PromptError, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    output = Path(arguments.output)
    about = {
        "prompts": len(prompts),
        "k": arguments.k,
        "trained": arguments.trained,
        "max_tokens": arguments.max_tokens,
        "neighborhood": arguments.neighborhood,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    figures = {"about": about, "angles": [asdict(result) for result in results]}
    output.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    for path in write_report(output, results, about):
        print(f"wrote {path}")
    return 0


async def _run(arguments: argparse.Namespace, prompts: Sequence[str]) -> list[AngleResult]:
    async with client_of(arguments.url, arguments.deadline) as client:
        await wait_until_ready(client, arguments.wait)
        return await evaluate(
            client,
            prompts,
            arguments.angles,
            tuple(arguments.trained),
            k=arguments.k,
            model=arguments.model,
            max_tokens=arguments.max_tokens,
            theta_max=arguments.theta_max,
            neighborhood=arguments.neighborhood,
            at_once=arguments.at_once,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.evaluate", description=(__doc__ or "").split("\n\n")[0], epilog="key: NASHLOOP_KEY"
    )
    parser.add_argument("--url", required=True, help="the service, which needs two scorers")
    parser.add_argument("--prompts", required=True, help="JSONL or Parquet with a column prompt or messages")
    parser.add_argument("--count", type=int, default=128, help="prompts that are used")
    parser.add_argument("--angles", type=float, nargs="+", default=[10, 20, 30, 40, 45], help="preferred, in degrees")
    parser.add_argument("--trained", type=float, nargs=2, default=[-45, 0], help="angles that training covered")
    parser.add_argument("--k", type=int, default=5, help="candidates of either method")
    parser.add_argument("--theta-max", type=float, default=30.0)
    parser.add_argument("--neighborhood", choices=["grid", "uniform", "von_mises"], default="grid")
    parser.add_argument("--at-once", type=int, default=8, help="requests that are out at a time")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--model", default="policy")
    parser.add_argument("--wait", type=float, default=300.0, help="for a service that still starts, in seconds")
    parser.add_argument("--deadline", type=float, default=600.0, help="of one request, in seconds")
    parser.add_argument("--output", default="runs/serving-evaluation", help="path without suffix of the three files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
