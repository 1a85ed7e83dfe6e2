"""Promise 4: a publication is proved; weights that arrive altered, or not at all, stop the run with both numbers."""

from dataclasses import replace
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from actors.policy import Policy
from actors.publication import Publication, PublicationError, serialise
from tests.loop.support import Outcome, Runs
from tests.tiny import make_model
from workflows.training import RunFailed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CANARIES = ((7, 8, 9, 10), (20, 30, 40, 50, 60))


def publication(policy: Policy, version: int, without: tuple[str, ...] = ()) -> Publication:
    """An honest publication of a policy, but for the tensors left out."""
    tensors = {name: t for name, t in policy.published_tensors().items() if name not in without}
    payload, checksums = serialise(tensors)
    return Publication(
        version=version,
        payload=[ray.put(payload)],
        checksums=checksums,
        adapter_config=policy.adapter_config(),
        canaries=CANARIES,
        canary_logprobs=policy.canary_logprobs(CANARIES),
    )


@pytest.fixture(scope="module")
def policies(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Policy]:
    """Two different policies of one architecture."""
    config = runs.config("synchronous")
    other = make_model(tmp_path_factory.mktemp("other"), seed=1)
    cpu = torch.device("cpu")
    return Policy(config, config.model.name, cpu), Policy(config, str(other), cpu)


def refusal(engine: Any, sent: Publication) -> str:
    """Why the engine does not take a publication."""
    with pytest.raises(RayTaskError) as caught:
        ray.get(engine.load.remote(sent), timeout=60)
    assert isinstance(caught.value.cause, PublicationError)
    return str(caught.value.cause)


def test_an_honest_publication_is_taken(engine: Any, policies: tuple[Policy, Policy]) -> None:
    for version, policy in enumerate(policies):
        report = ray.get(engine.load.remote(publication(policy, version)), timeout=60)
        assert report.version == version
        assert report.mismatch_max_abs < 1e-4


def test_other_weights_than_the_learner_holds_are_caught(engine: Any, policies: tuple[Policy, Policy]) -> None:
    """Checksums agree, because the wrong weights were hashed too: only the canaries can tell."""
    mine, other = publication(policies[0], 5), publication(policies[1], 5)
    message = refusal(engine, replace(other, canary_logprobs=mine.canary_logprobs))
    assert "current, version 5: canary log-probabilities differ" in message
    assert "learner -" in message
    assert "engine -" in message
    ray.get(engine.load.remote(mine), timeout=60)


def test_an_output_head_that_is_not_sent_is_caught(engine: Any, policies: tuple[Policy, Policy]) -> None:
    """The trap of tied embeddings: the reload leaves the old head in place, without an error."""
    ray.get(engine.load.remote(publication(policies[0], 0)), timeout=60)
    assert "canary" in refusal(engine, publication(policies[1], 6, without=("lm_head.weight",)))
    ray.get(engine.load.remote(publication(policies[0], 7)), timeout=60)


def test_a_corrupted_publication_stops_the_run(corrupted: Outcome) -> None:
    assert isinstance(corrupted.error, RunFailed)
    message = str(corrupted.error)
    assert "version 2: checksum of" in message
    assert "in the engine" in message
    assert "in the learner" in message
    assert corrupted.summary["status"] == "failed"
    assert [event["version"] for event in corrupted.events("published")] == [0, 1]
    # Nothing was trained on groups of the weights that never arrived.
    assert all(group.oldest_version < 2 for _, group in corrupted.trained())
    assert not (corrupted.path / "policy").exists()
