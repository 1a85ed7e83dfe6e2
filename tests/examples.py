"""Configurations and groups for tests: complete, small, and changed by naming what is different."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.config import AlignConfig
from actors.records import Candidate, Group, Sampling, VersionSpan, derive_seed, group_id
from algorithms.preference import FloatArray

SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=16)

TREE: dict[str, Any] = {
    "name": "test",
    "model": {"name": "model", "dtype": "float32", "context": 128},
    "data": {"prompts": "prompts.jsonl"},
    "objective": {"options": {"candidates": 3, "pair_choice": "all"}},
    "loop": {"steps": 4, "batch": 2},
    "rollout": {"max_new_tokens": 16},
    "scoring": {"panel": ["tests.scripted_judges:more_letters"]},
}


def tree(**changes: Any) -> dict[str, Any]:
    """The tree of a valid configuration; `learner__method="full"` sets a nested key."""
    copy = {key: dict(value) if isinstance(value, Mapping) else value for key, value in TREE.items()}
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = copy
        for parent in parents:
            node[parent] = dict(node.get(parent, {}))
            node = node[parent]
        node[last] = value
    return copy


def config(**changes: Any) -> AlignConfig:
    """A valid configuration; see `tree`."""
    return AlignConfig.model_validate(tree(**changes))


def candidate(
    tokens: Sequence[int], *, text: str = "", truncated: bool = False, seed: int = 0, version: int = 0
) -> Candidate:
    """A completion of these tokens, with log-probabilities that belong to no model."""
    return Candidate(
        seed=seed,
        role="pair",
        policy="current",
        sampling=SAMPLING,
        token_ids=np.array(tokens, dtype=np.int32),
        logprobs=-np.ones(len(tokens), dtype=np.float32),
        text=text,
        finish_reason="length" if truncated else "stop",
        versions=(VersionSpan(version=version, start=0, end=len(tokens)),),
    )


def ranking(count: int) -> FloatArray:
    """[K, K] matrix under which each candidate beats those after it."""
    return np.triu(np.ones((count, count)), 1) + np.eye(count) / 2


def group(
    index: int, prompt: Sequence[int], completions: Sequence[Sequence[int]], preference: FloatArray | None = None
) -> Group:
    """A scored group; by default each candidate beats those after it."""
    return Group(
        id=group_id(0, 0, index),
        index=index,
        epoch=0,
        version=0,
        messages=({"role": "user", "content": "question"},),
        prompt_ids=np.array(prompt, dtype=np.int32),
        candidates=tuple(candidate(tokens, seed=derive_seed(index, k)) for k, tokens in enumerate(completions)),
        engine="engine-0",
        preference=ranking(len(completions)) if preference is None else preference,
        scorer="scorer-0",
    )


def random_groups(count: int, seed: int = 0, candidates: int = 3, vocabulary: int = 260) -> list[Group]:
    """Groups of different lengths, from a seed."""
    generator = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> list[int]:
        drawn: list[int] = generator.integers(4, vocabulary, size=int(generator.integers(low, high))).tolist()
        return drawn

    return [group(i, tokens(3, 9), [tokens(2, 12) for _ in range(candidates)]) for i in range(count)]
