"""Conversations that teach a policy to follow directions: `python -m serving.directions --url URL ...`.

Preference-conditioned rejection sampling, as in Directional Preference Alignment (arXiv 2402.18571): for each prompt
some directions are drawn, the service writes several candidates for each, and the one that is best along a direction
becomes the answer of a conversation that tells the direction, for `python -m workflows.sft`. The tuned policy, served,
writes for the next round.

Unlike there, a direction chooses among the candidates of all directions of its prompt, because what an answer is
rewarded with does not depend on the direction it was written for. `--system` makes the candidates of a policy that
can't follow directions yet differ; like an answer that the token limit cut, it does not become part of a conversation.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from actors.prompts import PromptError, load_prompts
from actors.records import derive_seed
from algorithms.selection.rules import best_of_n, projected
from serving.asking import ServiceError, checked, client_of, gathered, wait_until_ready
from serving.prompts import check_template, conditioned
from serving.settings import Template
from serving.told import Conversation, drawn_angles, write_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A direction of a prompt with the answer that is best along it."""

    direction: dict[str, float]
    """The unit vector, by objective."""
    answer: str
    rewards: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the service wrote for one direction of a prompt."""

    direction: dict[str, float]
    """The unit vector, by objective."""
    candidates: list[tuple[str, dict[str, float]]]
    """Complete answers that could be scored, with their rewards by objective."""


async def check_told(client: httpx.AsyncClient, template: str) -> None:
    """Before anything is written. Raises: ValueError where the template does not suit what the service scores."""
    answer = checked(await client.post("/v1/scores", json={"prompt": "?", "responses": ["!"]}))
    check_template(template, answer["objectives"])


async def converse(
    client: httpx.AsyncClient,
    prompts: Sequence[Conversation],
    angles: Sequence[float],
    *,
    drawn: int,
    seed: int,
    systems: Sequence[str],
    at_once: int,
    **asked: Any,
) -> list[list[Taught]]:
    """What each prompt teaches about `drawn` of the angles, none where no candidate will do; `asked` is passed on to
    `write`.

    Raises: `ServiceError` for a request that the service refuses; ValueError for fewer angles than are drawn.
    """
    slots = asyncio.Semaphore(at_once)

    async def one(number: int, place: int, angle: float) -> Written:
        told = prompts[number]
        if systems and told[0]["role"] != "system":
            told = ({"role": "system", "content": systems[place % len(systems)]}, *told)
        async with slots:
            return await write(client, told, angle, seed=derive_seed(seed, "candidates", number, place), **asked)

    requests = []
    for number in range(len(prompts)):
        chosen = drawn_angles(angles, drawn, number, seed)
        requests += [one(number, place, angle) for place, angle in enumerate(chosen)]
    written = await gathered("candidates", requests)
    return [best(written[i * drawn : (i + 1) * drawn]) for i in range(len(prompts))]


async def write(
    client: httpx.AsyncClient,
    messages: Conversation,
    angle: float,
    *,
    seed: int,
    k: int,
    model: str,
    max_tokens: int,
    temperature: float,
) -> Written:
    """k candidates for one direction, without those that the token limit cut or that could not be scored."""
    body = {
        "model": model,
        "messages": list(messages),
        "n": k,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "preference": angle,
        "selection": {"method": "best_of_n", "k": k, "return_candidates": True},
    }
    answer = checked(await client.post("/v1/chat/completions", json=body))
    ended = {choice["message"]["content"] for choice in answer["choices"] if choice["finish_reason"] == "stop"}
    found = [
        (candidate["text"].strip(), candidate["rewards"])
        for candidate in answer["nashloop"]["candidates"]
        if candidate["text"] in ended and candidate["text"].strip() and "rewards" in candidate
    ]
    return Written(direction=answer["nashloop"]["direction"], candidates=found)


def best(written: Sequence[Written]) -> list[Taught]:
    """Each direction of a prompt with the answer that is best along it, of all its candidates; none without any."""
    pool = [candidate for each in written for candidate in each.candidates]
    if not pool:
        return []
    found = []
    for direction in (each.direction for each in written):
        rewards = [[row[name] for name in direction] for _, row in pool]
        answer, own = pool[best_of_n(projected(rewards, list(direction.values())))[0]]
        found.append(Taught(direction=direction, answer=answer, rewards=own))
    return found


def conversation(prompt: Conversation, template: str, taught: Taught) -> dict[str, Any]:
    """A row for `workflows.sft`: the direction is told, and its answer given."""
    told = conditioned(prompt, template, taught.direction)
    return {"messages": [*told, {"role": "assistant", "content": taught.answer}]}


def contrast(taught: Sequence[Taught]) -> Table:
    """Mean rewards of the answers to each direction: what is alike for all can't teach to tell them apart."""
    names = list(taught[0].direction)
    table = Table("direction", "conversations", *names, title="rewards of the answers", title_justify="left")
    groups: dict[tuple[float, ...], list[Taught]] = {}
    for each in taught:
        groups.setdefault(tuple(each.direction.values()), []).append(each)
    for direction in sorted(groups, key=lambda values: values[::-1]):
        rows = groups[direction]
        means = [float(np.mean([row.rewards[name] for row in rows])) for name in names]
        told = ", ".join(f"{name} {value:+.2f}" for name, value in zip(names, direction, strict=True))
        table.add_row(told, str(len(rows)), *(f"{mean:.3f}" for mean in means))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        prompts = [record.messages for record in load_prompts(arguments.prompts)[: arguments.count]]
        taught = asyncio.run(_run(arguments, prompts))
    except (ServiceError, PromptError, ValueError, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    rows = [
        conversation(prompt, arguments.template, each)
        for prompt, found in zip(prompts, taught, strict=True)
        for each in found
    ]
    if not rows:
        print(f"none of the candidates for {len(prompts)} prompts was complete and could be scored", file=sys.stderr)
        return 1
    write_rows(Path(arguments.output), rows)
    print(f"wrote {len(rows)} conversations of {len(prompts)} prompts to {arguments.output}")
    Console().print(contrast([each for found in taught for each in found]))
    return 0


async def _run(arguments: argparse.Namespace, prompts: Sequence[Conversation]) -> list[list[Taught]]:
    first, last = arguments.trained
    angles = np.linspace(first, last, arguments.directions).tolist()
    async with client_of(arguments.url, arguments.deadline) as client:
        await wait_until_ready(client, arguments.wait)
        await check_told(client, arguments.template)
        return await converse(
            client,
            prompts,
            angles,
            drawn=arguments.drawn,
            seed=arguments.seed,
            systems=arguments.system,
            at_once=arguments.at_once,
            k=arguments.k,
            model=arguments.model,
            max_tokens=arguments.max_tokens,
            temperature=arguments.temperature,
        )


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").split("\n\n")[1]
    parser = argparse.ArgumentParser(
        prog="python -m serving.directions", description=summary, epilog="key: NASHLOOP_KEY"
    )
    parser.add_argument("--url", required=True, help="the service, which needs two scorers")
    parser.add_argument("--prompts", required=True, help="JSONL or Parquet with a column prompt or messages")
    parser.add_argument("--count", type=int, help="prompts that are used; all by default")
    parser.add_argument(
        "--trained", type=float, nargs=2, default=[-45, 0], help="from which to which angle, in degrees"
    )
    parser.add_argument("--directions", type=int, default=10, help="evenly spaced directions between them")
    parser.add_argument("--drawn", type=int, default=3, help="directions that each prompt is told")
    parser.add_argument("--k", type=int, default=16, help="candidates for each of them")
    parser.add_argument(
        "--system", nargs="+", default=[], help="what the candidates of a prompt are also told, in turn"
    )
    parser.add_argument(
        "--template",
        default="dpa",
        choices=get_args(Template),
        help="how a direction is told; the service's own --template",
    )
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="policy")
    parser.add_argument("--at-once", type=int, default=8, help="requests that are out at a time")
    parser.add_argument("--wait", type=float, default=300.0, help="for a service that still starts, in seconds")
    parser.add_argument("--deadline", type=float, default=600.0, help="of one request, in seconds")
    parser.add_argument("--output", required=True, help="JSONL of conversations")
    return parser


if __name__ == "__main__":
    sys.exit(main())
