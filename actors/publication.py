"""Publications: new weights on their way from the learner to the engines, and the proof that they arrived.

A publication is complete or it is nothing: it names its version, carries the checksum of every tensor, and the
log-probabilities that the learner itself gives to a few canary sequences. An engine serves a version only after its
tensors had those checksums and its own canary log-probabilities agree with the learner's.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
import safetensors.torch
import torch
from numpy.typing import NDArray

from actors.config import PublicationConfig
from algorithms.diagnostics import mismatch


class PublicationError(RuntimeError):
    """Weights that did not arrive as they were sent, or that the engine computes differently with."""


Canary = tuple[int, ...]
"""Token ids; the log-probabilities of what follows them prove a load."""

ENGINE_TOKENS = 20
"""Most likely next tokens of a canary that an engine answers with (vLLM's default limit) ..."""
LEARNER_TOKENS = 256
"""... and of which the learner names more, so that rounding can't push one of the engine's out of its list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """New weights of one named policy: what the engines need besides the weights themselves."""

    policy: str = "current"
    version: int
    payload: Any
    """Transport's handle of the safetensors bytes."""
    checksums: dict[str, int]
    adapter_config: str | None
    """JSON of peft's adapter configuration; none when the full weights are published."""
    canaries: tuple[Canary, ...]
    canary_logprobs: tuple[dict[int, float], ...]
    """The learner's, one a canary: log-probabilities, in nats, of its most likely next tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What an engine saw when it loaded publications."""

    version: int
    """The newest of them."""
    engine: str
    seconds: float
    paused_seconds: float
    mismatch_kl: float
    mismatch_max_abs: float


class Transport(Protocol):
    """The seam between learner and engines; NCCL on a GPU cluster comes in here."""

    def send(self, payload: NDArray[np.uint8]) -> Any:
        """Make the bytes reachable for every engine; returns a handle that travels in messages."""

    def receive(self, handle: Any) -> NDArray[np.uint8]:
        """The bytes behind a handle."""


class ObjectStoreTransport:
    """Ray's object store: one write by the learner, one pull a node, shared memory within a node."""

    def send(self, payload: NDArray[np.uint8]) -> Any:
        return [ray.put(payload)]

    def receive(self, handle: Any) -> NDArray[np.uint8]:
        payload: NDArray[np.uint8] = ray.get(handle[0])
        return payload


def build_transport(config: PublicationConfig) -> Transport:
    """The transport that the configuration names."""
    return {"object_store": ObjectStoreTransport}[config.transport]()


def checksum(tensor: torch.Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return zlib.crc32(flat.numpy().data)


def serialise(tensors: dict[str, torch.Tensor]) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """Tensors as safetensors bytes, with the checksum of each."""
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    return np.frombuffer(safetensors.torch.save(tensors), dtype=np.uint8), sums


def verify_checksums(version: int, tensors: dict[str, torch.Tensor], expected: dict[str, int]) -> None:
    """Raise `PublicationError` unless exactly the expected tensors arrived, bit for bit."""
    if tensors.keys() != expected.keys():
        lost = sorted(expected.keys() - tensors.keys())[:3]
        extra = sorted(tensors.keys() - expected.keys())[:3]
        raise PublicationError(f"version {version}: tensors missing {lost}, not expected {extra}")
    for name, tensor in tensors.items():
        found = checksum(tensor)
        if found != expected[name]:
            raise PublicationError(
                f"version {version}: checksum of {name} is {found:#010x} in the engine, "
                f"{expected[name]:#010x} in the learner"
            )


def verify_file(version: int, file: Path, expected: dict[str, int]) -> None:
    """`verify_checksums` of the tensors in a safetensors file."""
    verify_checksums(version, safetensors.torch.load_file(file), expected)


def verify_canaries(
    publication: Publication, engine: tuple[dict[int, float], ...], tolerance: float
) -> tuple[float, float]:
    """Compare the engine's most likely next tokens with what the learner gives to the same tokens, in nats.

    Returns: KL(engine || learner) a token over those tokens, the canaries' mean, and the largest absolute difference.
    Raises: `PublicationError` with both numbers where their mean absolute difference exceeds `tolerance`.
    """
    compared = [
        torch.tensor([(value, learner.get(token, float("-inf"))) for token, value in found.items()]).double()
        for found, learner in zip(engine, publication.canary_logprobs, strict=True)
    ]
    engine_all, learner_all = torch.cat(compared).unbind(1)
    difference = (engine_all - learner_all).abs().mean().item()
    if not difference <= tolerance:
        raise PublicationError(
            f"{publication.policy}, version {publication.version}: canary log-probabilities differ by "
            f"{difference:.4g} nats a token (learner {learner_all.mean():.4f}, engine {engine_all.mean():.4f}; "
            f"tolerance {tolerance:.4g}): "
            "the engine does not run the weights that the learner published"
        )
    kls, largest = zip(*(mismatch(*pairs.unbind(1)) for pairs in compared), strict=True)
    return sum(kls) / len(kls), max(largest)
