"""What is asked for a group follows from the configuration, its index and a version, in one stage or in two."""

from collections.abc import Sequence
from typing import Any

import pytest

from actors.records import Part
from actors.requests import Requests
from algorithms.objective import build_objective
from tests.examples import config

PROMPTS = tuple(({"role": "user", "content": f"prompt {i}"},) for i in range(5))


def requests(eta: int, name: str = "egpo", **options: Any) -> Requests:
    settings = config(objective={"name": name, "options": options}, loop={"steps": 4, "batch": 2, "eta": eta})
    return Requests(settings, build_objective(name, options), PROMPTS)


def seeds(parts: Sequence[Part]) -> list[int]:
    return [seed for part in parts for seed in part.seeds]


@pytest.mark.parametrize("index", [0, 3, 17])
def test_waiting_changes_when_candidates_are_sampled_and_not_which(index: int) -> None:
    """The synchronous loop asks for everything at once, the asynchronous one in two stages: the seeds are the same."""
    together, apart = requests(0, candidates=2, opponents=3), requests(2, candidates=2, opponents=3)
    assert not together.waits
    assert apart.waits
    at_once = together.early(index, 4)
    first, second = apart.early(index, 2), apart.late(index, 4)
    assert seeds(at_once.parts) == seeds(first.parts) + seeds(second.parts)
    assert (at_once.id, at_once.messages) == (first.id, first.messages) == (second.id, second.messages)
    assert len(set(seeds(at_once.parts))) == 5


def test_the_batch_decides_who_writes_the_opponents() -> None:
    apart = requests(2, candidates=2, opponents=2)
    assert [part.policy for part in apart.late(0, 4).parts] == ["current"]
    assert [part.policy for part in apart.late(0, 5).parts] == ["half"]
    assert {part.policy for version in range(4) for part in apart.early(0, version).parts} == {"current"}


def test_a_role_may_be_sampled_flatter_than_the_run() -> None:
    plain = requests(2, candidates=2)
    flat = requests(2, candidates=2, pair_temperature=2.0, pair_top_k=10, pair_sampler="reference")
    assert (plain.early(0, 0).parts[0].sampling.temperature, plain.early(0, 0).parts[0].policy) == (1.0, "current")
    part = flat.early(0, 0).parts[0]
    assert (part.sampling.temperature, part.sampling.top_k, part.policy) == (2.0, 10, "reference")
    assert flat.late(0, 0).parts[0].sampling.temperature == 1.0


def test_groups_of_another_index_are_other_groups() -> None:
    found = requests(0)
    assert found.early(1, 0).id != found.early(2, 0).id
    assert not set(seeds(found.early(1, 0).parts)) & set(seeds(found.early(2, 0).parts))
    assert found.early(1, 0).parts == found.early(1, 2).parts, "the version says when, not what"
