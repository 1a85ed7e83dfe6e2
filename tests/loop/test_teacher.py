"""A teacher as an actor: a model folder in an engine of its own, an endpoint, and failures that keep their names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayTaskError

from actors.config import AlignConfig
from actors.endpoint import EndpointError
from actors.records import Group, GroupRequest, Part, from_arrow
from actors.teacher import CALLS_FILE, create_teacher
from tests.endpoint import serve
from tests.examples import SAMPLING, config
from tests.loop.support import Outcome, Runs
from tests.tiny import make_tokenizer
from workflows.training import RunFailed

pytestmark = pytest.mark.slow

BUDGET = 14
"""Calls: the probe, and enough groups for a few batches of four."""


def ask(configuration: AlignConfig, folder: Path, *requests: GroupRequest) -> list[Group]:
    teacher: Any = create_teacher("teacher-0", configuration, str(folder))
    try:
        ray.get(teacher.start.remote(), timeout=300)
        found = [from_arrow(ray.get(teacher.generate.remote(r, None)[1], timeout=60))[0] for r in requests]
        ray.get(teacher.stop.remote(), timeout=60)
        return found
    finally:
        ray.kill(teacher)


def request(*seeds: int) -> GroupRequest:
    part = Part(role="pair", policy="teacher", seeds=seeds, sampling=SAMPLING)
    messages = ({"role": "user", "content": "Why?"},)
    return GroupRequest(id="s0-e0-00000000", index=0, epoch=0, version=0, messages=messages, parts=(part,))


def test_a_folder_writes_texts_in_tokens_of_the_policy(cluster: str, tiny_model: Path, tmp_path: Path) -> None:
    given = config(model__name=str(tiny_model), rollout__kv_cache_gib=0.1, teacher={"model": str(tiny_model)})
    first, again = ask(given, tmp_path, request(1, 2), request(1, 2))
    tokenizer = make_tokenizer()
    for candidate in first.candidates:
        assert candidate.policy == "teacher"
        assert 0 < len(candidate.token_ids) <= SAMPLING.max_new_tokens
        assert np.isnan(candidate.logprobs).all()
        assert candidate.text == tokenizer.decode(candidate.token_ids, skip_special_tokens=True)
        assert (candidate.token_ids[-1] == tokenizer.eos_token_id) != candidate.truncated
    assert [c.text for c in first.candidates] == [c.text for c in again.candidates]
    assert first.candidates[0].text != first.candidates[1].text


def test_an_endpoint_answers_until_its_budget_is_spent(cluster: str, tiny_model: Path, tmp_path: Path) -> None:
    with serve() as server:
        endpoint = {"model": "large", "endpoint": server.address, "max_calls": 2}
        given = config(model__name=str(tiny_model), teacher=endpoint)
        (group,) = ask(given, tmp_path, request(1, 2))
        assert [c.text for c in group.candidates] == ["Light scatters."] * 2
        with pytest.raises(RayTaskError) as raised:
            ask(given, tmp_path, request(3))
    assert isinstance(raised.value.cause, EndpointError)
    assert raised.value.cause.name == "teacher_budget"


@pytest.fixture(scope="module")
def taught(runs: Runs) -> tuple[Outcome, int]:
    """A run with a teacher at an endpoint, whose budget ends before the run would, and the calls that were made."""
    with serve() as server:
        options = {"candidates": 2, "teacher_candidates": 1, "iteration": 2, "replay": [0.25]}
        configuration = runs.config(
            "taught",
            objective={"name": "dno_prct", "options": options},
            teacher={"model": "large", "endpoint": server.address, "max_calls": BUDGET},
            scoring={"max_rejected_share": 0.3},
        )
        return runs.run(configuration), len(server.requests)


def test_a_run_trains_on_answers_of_an_endpoint(taught: tuple[Outcome, int]) -> None:
    outcome = taught[0]
    trained = outcome.trained()
    assert len(trained) >= outcome.config.loop.batch
    for _, group in trained:
        assert [c.policy for c in group.candidates] == ["iterate", "iterate", "teacher"]
        assert group.candidates[2].text == "Light scatters."
    for step in outcome.metrics("step"):
        # What the teacher leaves unknown is left out, not counted as no number.
        assert step["entropy"] > 0


def test_a_spent_budget_rejects_groups_and_too_many_stop_the_run(taught: tuple[Outcome, int]) -> None:
    outcome, calls = taught
    # One call for each group, and the probe.
    assert (outcome.path / CALLS_FILE).stat().st_size == calls == BUDGET
    rejected = outcome.events("rejected")
    assert {event["reason"] for event in rejected} == {"teacher_budget"}
    assert isinstance(outcome.error, RunFailed)
    message = str(outcome.error)
    assert "more than the share 0.3 that scoring.max_rejected_share allows" in message
    assert "{'teacher_budget':" in message
    ledger = outcome.summary["ledger"]
    assert 0 < ledger["rejected"] <= len(rejected), "what is on its way when a run stops may still fail"
    assert ledger["admitted"] == ledger["trained"] + ledger["rejected"] + ledger["in_flight"]
