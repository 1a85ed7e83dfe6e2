"""Promise 4: weights that did not arrive bit for bit, or compute something else, are an error with both numbers."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.config import PublicationConfig
from actors.publication import (
    ObjectStoreTransport,
    Publication,
    PublicationError,
    build_transport,
    checksum,
    serialise,
    verify_canaries,
    verify_checksums,
)

TENSORS = {
    "layer.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "layer.bias": torch.ones(3, dtype=torch.bfloat16),
    "scale": torch.tensor(0.5),
}


def publication(*learner: dict[int, float]) -> Publication:
    return Publication(
        version=7,
        payload=None,
        checksums={},
        adapter_config=None,
        canaries=tuple((1, 2) for _ in learner),
        canary_logprobs=learner,
    )


def test_tensors_arrive_as_they_were_sent() -> None:
    payload, sums = serialise(TENSORS)
    arrived = safetensors.torch.load(payload.tobytes())
    verify_checksums(7, arrived, sums)
    for name, tensor in TENSORS.items():
        assert torch.equal(arrived[name], tensor)


@given(st.sampled_from(sorted(TENSORS)), st.data())
def test_one_flipped_bit_is_caught(name: str, data: st.DataObject) -> None:
    _, sums = serialise(TENSORS)
    bits = TENSORS[name].clone().flatten().view(torch.uint8).numpy()
    bit = data.draw(st.integers(0, 8 * bits.size - 1))
    bits[bit // 8] ^= 1 << bit % 8
    broken = TENSORS | {name: torch.from_numpy(bits).view(TENSORS[name].dtype).reshape(TENSORS[name].shape)}
    with pytest.raises(PublicationError, match=rf"version 7: checksum of {name} is 0x[0-9a-f]+ in the engine, 0x"):
        verify_checksums(7, broken, sums)


def test_both_checksums_are_in_the_message() -> None:
    _, sums = serialise(TENSORS)
    other = TENSORS | {"scale": torch.tensor(0.25)}
    with pytest.raises(PublicationError) as raised:
        verify_checksums(7, other, sums)
    assert f"{checksum(torch.tensor(0.25)):#010x} in the engine" in str(raised.value)
    assert f"{checksum(torch.tensor(0.5)):#010x} in the learner" in str(raised.value)


def test_exactly_the_expected_tensors_have_to_arrive() -> None:
    _, sums = serialise(TENSORS)
    fewer = {name: tensor for name, tensor in TENSORS.items() if name != "scale"}
    with pytest.raises(PublicationError, match=r"missing \['scale'\], not expected \[\]"):
        verify_checksums(7, fewer, sums)
    with pytest.raises(PublicationError, match=r"missing \[\], not expected \['lm_head.weight'\]"):
        verify_checksums(7, TENSORS | {"lm_head.weight": torch.zeros(2)}, sums)


def test_a_checksum_is_of_the_values_not_of_the_memory() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    assert checksum(matrix.T) == checksum(matrix.T.contiguous())
    assert checksum(matrix.T) != checksum(matrix)
    assert checksum(matrix.requires_grad_()) == checksum(torch.arange(6.0))


def test_canaries_that_agree_give_the_mismatch() -> None:
    learner = {1: -1.0, 2: -2.0, 3: -3.0}
    assert verify_canaries(publication(learner), ({1: -1.0, 3: -3.0},), 1e-3) == (0.0, 0.0)
    kl, largest = verify_canaries(publication(learner, learner), ({1: -1.0}, {2: -2.02}), 0.1)
    assert largest == pytest.approx(0.02)
    log_ratio = 0.02
    assert kl == pytest.approx(math.exp(-2.02) * (math.expm1(log_ratio) - log_ratio) / 2, rel=1e-4)


def test_canaries_that_disagree_stop_with_both_numbers() -> None:
    learner = {1: -1.0, 2: -2.0}
    with pytest.raises(PublicationError) as raised:
        verify_canaries(publication(learner), ({1: -1.5, 2: -3.5},), 0.5)
    message = str(raised.value)
    assert "version 7: canary log-probabilities differ by 1 nats a token" in message
    assert "learner -1.5000, engine -2.5000; tolerance 0.5" in message


def test_a_disagreement_in_both_directions_does_not_cancel() -> None:
    with pytest.raises(PublicationError):
        verify_canaries(publication({1: -1.0, 2: -2.0}), ({1: -2.0, 2: -1.0},), 0.5)


@pytest.mark.parametrize("engine", [{1: float("nan")}, {9: -1.0}, {1: -1.0, 9: -1.0}])
def test_nan_and_tokens_unknown_to_the_learner_are_mismatches(engine: dict[int, float]) -> None:
    with pytest.raises(PublicationError):
        verify_canaries(publication({1: -1.0, 2: -2.0}), (engine,), 100.0)


def test_every_canary_has_to_be_answered() -> None:
    with pytest.raises(ValueError, match="zip"):
        verify_canaries(publication({1: -1.0}, {1: -1.0}), ({1: -1.0},), 1.0)


def test_tolerance_follows_the_number_format_unless_it_is_set() -> None:
    default = PublicationConfig()
    tolerances = [default.tolerance_for(dtype) for dtype in ("float32", "float16", "bfloat16")]
    assert tolerances == sorted(tolerances)
    assert len(set(tolerances)) == 3
    # Half an ulp of a log-probability of about 8 nats, and less than a halved or doubled probability.
    for dtype, tolerance in zip((torch.float32, torch.float16, torch.bfloat16), tolerances, strict=True):
        assert 8 * torch.finfo(dtype).eps / 2 < tolerance < math.log(2)
    assert PublicationConfig(tolerance=0.02).tolerance_for("bfloat16") == 0.02


def test_the_transport_is_named_by_the_configuration() -> None:
    assert isinstance(build_transport(PublicationConfig(transport="object_store")), ObjectStoreTransport)


def test_bytes_are_those_of_a_safetensors_file() -> None:
    payload, sums = serialise(TENSORS)
    assert payload.dtype == np.uint8
    assert sums.keys() == TENSORS.keys()
    assert sums["scale"] == checksum(TENSORS["scale"])
