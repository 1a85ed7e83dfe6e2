"""Policies answer the same prompts, and a panel judges all answers to a prompt against each other.

Each policy answers in an engine of its own, one after the other; what it answered is kept, and asked for again only
when the requests are others. Equal policies give equal answers, for all get the same seeds.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError
from rich.console import Console

from actors.config import AlignConfig
from actors.deadlines import DeadlineExceeded
from actors.planes import sampling_of
from actors.records import SCHEMA, Group, GroupRequest, Message, Part, derive_seed, from_arrow, to_arrow
from actors.rollout import RolloutEngine, engine_environment
from actors.scorer import create_scorer
from actors.scorers.config import ScoringConfig
from actors.scorers.state import ScoringRounds, ScoringState
from algorithms.preference import FloatArray
from algorithms.tournament import policy_win_rates
from workflows.preflight import check_inputs

SERVED = "reference"
"""The named policy under which an engine serves a model folder as it is."""


class NotJudged(ValueError):
    """Answers that can't be judged; the message has the judge's reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A policy that takes part: its model, how it samples, and where its answers are kept."""

    name: str
    model: str
    config: AlignConfig
    directory: Path
    prefix: str
    """Of the files in `directory` that hold its answers; it has to tell its model from others."""


def load_questions(config: AlignConfig, path: str) -> tuple[tuple[Message, ...], ...]:
    """The prompts of a file as the policies are asked them, checked with model and panel."""
    data = config.data.model_copy(update={"prompts": path, "heldout": path})
    return check_inputs(config.model_copy(update={"data": data, "teacher": None})).heldout


def answers_of(
    contestant: Contestant, questions: Sequence[tuple[Message, ...]], samples: int, seed: int, console: Console
) -> list[Group]:
    """`samples` answers to each question, from where they are kept or, the first time, from an engine."""
    asked = requests(contestant.config, questions, samples, seed)
    path = cache_path(contestant, asked)
    if path.exists():
        console.print(f"{contestant.name}: answers of an earlier round", highlight=False)
    else:
        console.print(f"{contestant.name}: {samples} answers to each of {len(questions)} prompts", highlight=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        pq.write_table(pa.Table.from_batches(generate(contestant, asked), SCHEMA), part)
        part.rename(path)
    return from_arrow(pq.read_table(path, schema=SCHEMA))


def requests(
    config: AlignConfig, questions: Sequence[tuple[Message, ...]], samples: int, seed: int
) -> list[GroupRequest]:
    """What every contestant is asked, with the same seeds: two equal policies give equal answers."""
    return [
        GroupRequest(
            id=f"round-robin-{i:06d}",
            index=i,
            epoch=0,
            version=0,
            messages=messages,
            parts=(
                Part(
                    role="pair",
                    policy=SERVED,
                    seeds=tuple(derive_seed(seed, "round-robin", i, k) for k in range(samples)),
                    sampling=sampling_of(config.rollout),
                ),
            ),
        )
        for i, messages in enumerate(questions)
    ]


def cache_path(contestant: Contestant, asked: Sequence[GroupRequest]) -> Path:
    """Where the answers to exactly these requests are kept."""
    told = json.dumps([asdict(request) for request in asked]).encode()
    digest = hashlib.blake2b(told, digest_size=6).hexdigest()
    return contestant.directory / f"{contestant.prefix}-{digest}.parquet"


def generate(contestant: Contestant, asked: Sequence[GroupRequest]) -> list[pa.RecordBatch]:
    """Answers of a contestant's model, in an engine that lives only for this."""
    model = contestant.config.model.model_copy(update={"name": contestant.model})
    config = contestant.config.model_copy(update={"model": model})
    options = ray.remote(RolloutEngine).options(
        num_cpus=config.rollout.cpus,
        num_gpus=config.rollout.gpus,
        max_concurrency=1000,
        runtime_env={"env_vars": engine_environment(config)},
    )
    engine: Any = options.remote(contestant.name, config, (SERVED,))
    try:
        collect([engine.start.remote()], config.deadlines.start, f"the engine of {contestant.name} (deadlines.start)")
        batches = [engine.generate.remote(request)[1] for request in asked]
        what = f"the next answer of {contestant.name} (deadlines.generate)"
        answers: list[pa.RecordBatch] = collect(batches, config.deadlines.generate, what)
        collect([engine.stop.remote()], config.deadlines.start, f"the engine of {contestant.name} to end")
        return answers
    finally:
        ray.kill(engine)


def merged(contestants: Sequence[Contestant], answers: Sequence[Sequence[Group]]) -> list[Group]:
    """One group a prompt, with the answers of all contestants under their names."""
    groups = []
    for rows in zip(*answers, strict=True):
        candidates = tuple(
            replace(candidate, policy=contestant.name)
            for contestant, group in zip(contestants, rows, strict=True)
            for candidate in group.candidates
        )
        groups.append(replace(rows[0], candidates=candidates))
    return groups


def judge(groups: Sequence[Group], config: AlignConfig, directory: Path) -> list[Group]:
    """The groups with the panel's verdicts, free of the noise that a run may add for its learner.

    Calls to endpoints are counted in `directory`. Members that need a common scale get it from the answers of the
    policy that comes first in every group.
    Raises: `NotJudged` with the judge's reason for a group that can't be judged, `ScorerError`.
    """
    scoring = config.scoring.model_copy(update={"labels": "probability", "flip_rate": 0.0, "gold": ()})
    scorers = [create_scorer(f"scorer-{i}", scoring, str(directory)) for i in range(scoring.scorers)]
    try:
        ready = [scorer.start.remote() for scorer in scorers]
        collect(ready, config.deadlines.start, "the scorers (deadlines.start)")
        batches = [ray.put(to_arrow([group])) for group in groups]
        state = _state(scoring, scorers[0], groups, config.deadlines.score)
        pairs = [scorers[i % len(scorers)].score.remote(batch, state) for i, batch in enumerate(batches)]
        verdicts = collect([verdict for verdict, _ in pairs], config.deadlines.score, "a verdict (deadlines.score)")
        for group, (summary, detail) in zip(groups, verdicts, strict=True):
            if summary.rejection:
                raise NotJudged(f"the answers to prompt {group.index} can't be judged: {detail}")
        return [from_arrow(batch)[0] for batch in ray.get([scored for _, scored in pairs])]
    finally:
        for scorer in scorers:
            ray.kill(scorer)


def _state(scoring: ScoringConfig, scorer: Any, groups: Sequence[Group], seconds: float) -> ScoringState:
    """What a panel needs to know besides the answers: the scale of its members, where its rule compares them."""
    if not scoring.standardises:
        return ScoringState.start(scoring)
    first = groups[0].candidates[0].policy
    own = [replace(g, candidates=tuple(c for c in g.candidates if c.policy == first)) for g in groups]
    asked = [scorer.rewards.remote(to_arrow([group])) for group in own]
    found = collect(asked, seconds, "the rewards that set the scale of the panel's members (deadlines.score)")
    rounds = ScoringRounds(scoring)
    rounds.calibrate(np.concatenate([rewards for _, rewards in found]), found[0][0])
    return ScoringState.read(rounds.snapshot())


def verdict(group: Group) -> FloatArray:
    """The [K, K] matrix of a judged group."""
    if group.preference is None:
        raise NotJudged(f"the answers to prompt {group.index} were not judged")
    return group.preference


def outcomes(scored: Sequence[Group], names: Sequence[str]) -> FloatArray:
    """Win rates [Q, M, M] of the named policies on each prompt."""
    place: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    return np.stack(
        [policy_win_rates(verdict(group), [place[c.policy] for c in group.candidates], len(names)) for group in scored]
    )


def mean_length(groups: Sequence[Group], policy: str | None = None) -> float:
    """Mean tokens of an answer, of all policies or of one."""
    candidates = [candidate for group in groups for candidate in group.candidates]
    return float(np.mean([len(c.token_ids) for c in candidates if policy in (None, c.policy)]))


def collect(references: Sequence[Any], seconds: float, what: str) -> Any:
    """The values of all references, as long as one comes every `seconds`.

    Raises: what a task raised, or `DeadlineExceeded` that says what was waited for.
    """
    pending = list(references)
    while pending:
        done, pending = ray.wait(pending, timeout=seconds)
        if not done:
            raise DeadlineExceeded(f"waited {seconds:g} s for {what}")
    try:
        return ray.get(list(references))
    except RayTaskError as error:
        raise error.cause from None
