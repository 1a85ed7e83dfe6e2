"""Everything that can be wrong before an engine starts is found here, at once and with one message each."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from actors.config import AlignConfig
from actors.models import check_context, load_tokenizer, render_prompt, require_chat_template, resolve_model
from actors.planes import TEACHER, sampler_pools
from actors.prompts import check_lengths, load_prompts
from actors.publication import Canary
from actors.records import Message
from actors.scorer import Panel
from actors.teacher import engine_config
from algorithms.sampling import served_policies
from workflows.config import objective_of


class ResourceError(RuntimeError):
    """The cluster can't hold the planes; the message shows demand and supply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run needs besides its configuration, checked."""

    prompts: tuple[tuple[Message, ...], ...]
    heldout: tuple[tuple[Message, ...], ...]
    canaries: tuple[Canary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Actors of one plane, each of which needs all its resources on one node."""

    plane: str
    actors: int
    cpus: float
    gpus: float


def check_inputs(config: AlignConfig) -> Inputs:
    """Load and check model, prompts and scorers.

    Raises: `ModelError`, `PromptError` or `ScorerError`, each saying what was asked, found, and what to do.
    """
    Panel(config.scoring)
    if config.teacher and not config.teacher.endpoint:
        require_chat_template(load_tokenizer(resolve_model(config.teacher.model)))
    prompts = _conversations(config.data.prompts, config.data.system)
    heldout = _conversations(config.data.heldout, config.data.system) if config.data.heldout else ()
    folder = resolve_model(config.model.name)
    check_context(folder, config.model.context)
    tokenizer = load_tokenizer(folder)
    require_chat_template(tokenizer)
    rendered = [render_prompt(tokenizer, messages) for messages in prompts]
    for prompt_ids in (rendered, [render_prompt(tokenizer, messages) for messages in heldout]):
        lengths, limit = [len(ids) for ids in prompt_ids], config.rollout.max_new_tokens
        check_lengths(lengths, context=config.model.context, max_new_tokens=limit)
    publication = config.publication
    return Inputs(
        prompts=prompts,
        heldout=heldout,
        canaries=tuple(tuple(ids[-publication.canary_tokens :]) for ids in rendered[: publication.canaries]),
    )


def demands(config: AlignConfig) -> list[Demand]:
    """Resources of every plane; conductor and buffer ask for none."""
    rollout, learner, scoring = config.rollout, config.learner, config.scoring
    teacher = [engine_config(config).rollout] if config.teacher and not config.teacher.endpoint else []
    objective = objective_of(config)
    policies = served_policies(objective.sampling, objective.update)
    pools = [served for served in sampler_pools(policies, learner.method) if served != TEACHER]
    return [
        Demand(plane="rollout", actors=rollout.engines * len(pools), cpus=rollout.cpus, gpus=rollout.gpus),
        *(Demand(plane="teacher", actors=1, cpus=engine.cpus, gpus=engine.gpus) for engine in teacher),
        Demand(plane="scoring", actors=scoring.scorers, cpus=scoring.cpus, gpus=scoring.gpus),
        Demand(plane="learner", actors=learner.workers, cpus=learner.cpus, gpus=learner.gpus),
    ]


def supply() -> list[tuple[float, float]]:
    """(CPUs, GPUs) of every node that is alive."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(entry.get("CPU", 0.0), entry.get("GPU", 0.0)) for entry in resources]


def shortage(wanted: Sequence[Demand], nodes: Sequence[tuple[float, float]]) -> str | None:
    """Why the planes do not fit on these nodes, or none if they do (first-fit, largest actor first)."""
    free = [list(node) for node in nodes]
    for demand in sorted(wanted, key=lambda d: (-d.gpus, -d.cpus)):
        for _ in range(demand.actors):
            node = next((n for n in free if n[0] >= demand.cpus and n[1] >= demand.gpus), None)
            if node is None:
                return (
                    f"the cluster can't hold the {demand.plane} plane\n{demand_table(wanted, nodes)}\n"
                    "Ask for fewer or smaller actors (rollout.engines, learner.workers, scoring.scorers and their cpus "
                    "and gpus), or add nodes."
                )
            node[0] -= demand.cpus
            node[1] -= demand.gpus
    return None


def demand_table(wanted: Sequence[Demand], nodes: Sequence[tuple[float, float]]) -> str:
    """Demand beside supply, as text."""
    lines = [f"{'plane':<10}{'actors':>7}{'CPUs each':>11}{'GPUs each':>11}"]
    lines += [f"{d.plane:<10}{d.actors:>7}{d.cpus:>11g}{d.gpus:>11g}" for d in wanted]
    cpus, gpus = sum(d.actors * d.cpus for d in wanted), sum(d.actors * d.gpus for d in wanted)
    lines.append(f"demanded:  {cpus:g} CPUs, {gpus:g} GPUs")
    lines.append(
        f"available: {sum(n[0] for n in nodes):g} CPUs, {sum(n[1] for n in nodes):g} GPUs on {len(nodes)} nodes"
    )
    return "\n".join(lines)


def _conversations(path: str, system: str | None) -> tuple[tuple[Message, ...], ...]:
    conversations = [record.messages for record in load_prompts(path)]
    if system is None:
        return tuple(conversations)
    first: Message = {"role": "system", "content": system}
    return tuple(m if m[0]["role"] == "system" else (first, *m) for m in conversations)
