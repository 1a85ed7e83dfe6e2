"""The records that travel between planes, and their one Arrow schema.

A record never changes after it was made. A candidate keeps the token ids exactly as sampled, the log-probabilities
of the distribution really sampled from, and which weight version sampled which token. Ids and seeds follow from
(run seed, epoch, index) alone, so re-issued work is the same work.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Message = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Tokens `start` to `end` (exclusive) were sampled from weights of `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The distribution that candidates are drawn from.

    Example: `Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=64)`.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Candidates of one group that one named policy is asked for: one a seed.

    Example: `Part(role="pair", policy="current", seeds=(11, 12), sampling=Sampling(...))`.
    """

    role: str
    policy: str
    seeds: tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """What the conductor asks a sampler for: candidates of one prompt, part by part.

    Example: `GroupRequest(id="s0-e0-00000007", index=7, epoch=0, messages=(...), parts=(Part(...),), ...)`.
    """

    id: str
    index: int
    epoch: int
    version: int
    """Version that admission counted with."""
    messages: tuple[Message, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One sampled completion.

    Example: `Candidate(seed=11, role="pair", policy="current", token_ids=np.array([5, 2]), ...)`.
    """

    seed: int
    role: str
    """What the objective wants it for: `pair` or `opponent`."""
    policy: str
    """Name of the policy that wrote it; `versions` count the publications of that name."""
    sampling: Sampling
    token_ids: NDArray[np.int32]
    """[T], as sampled, including the end token."""
    logprobs: NDArray[np.float32]
    """[T], nats, of the tempered and truncated distribution that was sampled from."""
    text: str
    finish_reason: str
    """`stop`, or `length` where the token limit cut the completion."""
    versions: tuple[VersionSpan, ...]

    @property
    def truncated(self) -> bool:
        """Whether the token limit cut the completion."""
        return self.finish_reason == "length"

    @property
    def oldest_version(self) -> int:
        """The oldest weights that sampled a token of it."""
        return min(span.version for span in self.versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A prompt with its K candidates and, once scored, their preference matrix."""

    id: str
    index: int
    epoch: int
    version: int
    messages: tuple[Message, ...]
    prompt_ids: NDArray[np.int32]
    candidates: tuple[Candidate, ...]
    engine: str
    preference: NDArray[np.float64] | None = field(default=None)
    """[K, K]; P + P.T = 1 exactly, 1/2 on the diagonal."""
    scorer: str | None = field(default=None)
    rewards: NDArray[np.float64] | None = field(default=None)
    """[K, M], of each reward that scored the candidates, in its own units; none where only pairs were judged."""
    disagreement: float | None = field(default=None)
    """Of the panel's members about a pair, in [0, 1/2]: mean standard deviation of their probabilities."""

    @property
    def oldest_version(self) -> int:
        """The oldest weights that sampled a token of any candidate."""
        return min(candidate.oldest_version for candidate in self.candidates)

    def joined(self, candidates: Sequence[Candidate], sampler: str) -> "Group":
        """The same group with more candidates, written by another sampler."""
        samplers = dict.fromkeys([*self.engine.split("+"), sampler])
        return replace(self, candidates=(*self.candidates, *candidates), engine="+".join(samplers))

    def scored(
        self,
        preference: NDArray[np.float64],
        scorer: str,
        rewards: NDArray[np.float64] | None = None,
        disagreement: float | None = None,
    ) -> "Group":
        """The same group with its verdict."""
        return replace(self, preference=preference, scorer=scorer, rewards=rewards, disagreement=disagreement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a role's candidates came from."""

    role: str
    policy: str
    version: int
    """The oldest weights of that policy that sampled one of their tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringFigures:
    """What scoring a group took, and how it came out."""

    disagreement: float = 0.0
    rewards: tuple[tuple[str, float], ...] = ()
    """Name and mean over the candidates of each reward, in its own units."""
    weights: tuple[tuple[str, float], ...] = ()
    """Name of each objective and its weight in the reward of this group, where a rule weighs them."""
    calls: int = 0
    """Questions to judges, both orders counted."""
    cached: int = 0
    """Questions that a cache answered."""
    cut: int = 0
    """Inputs of models that were longer than their window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    """What the conductor learns of a group: enough to route and to account for it, no text and no tokens."""

    id: str
    index: int
    sources: tuple[Source, ...]
    prompt_tokens: int
    lengths: tuple[int, ...]
    truncated: int
    rejection: str | None = None
    """Reason, when the group can't be trained."""
    scoring: ScoringFigures | None = None


SPAN = pa.struct([("version", pa.int64()), ("start", pa.int32()), ("end", pa.int32())])
SAMPLING = pa.struct(
    [
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("top_k", pa.int64()),
        ("max_new_tokens", pa.int64()),
    ]
)
CANDIDATE = pa.struct(
    [
        ("seed", pa.int64()),
        ("role", pa.string()),
        ("policy", pa.string()),
        ("sampling", SAMPLING),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("versions", pa.list_(SPAN)),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("index", pa.int64()),
        ("epoch", pa.int64()),
        ("version", pa.int64()),
        ("messages", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("candidates", pa.list_(CANDIDATE)),
        ("engine", pa.string()),
        ("preference", pa.list_(pa.float64())),
        ("scorer", pa.string()),
        ("rewards", pa.list_(pa.float64())),
        ("disagreement", pa.float64()),
        ("trained_version", pa.int64()),
    ],
    metadata={b"nashloop": b"group/3"},
)
"""One row a group. `messages` is JSON; `preference` is the K x K matrix row by row, and `rewards` the K x M one;
`trained_version` is null until the group was trained."""


def group_id(run_seed: int, epoch: int, index: int) -> str:
    """Name of the group at `index`, the same whenever and however often it is issued."""
    return f"s{run_seed}-e{epoch}-{index:08d}"


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed that depends on every part and on nothing else.

    Example: `derive_seed(run_seed, "candidate", group_index, k)`.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    return {
        "seed": candidate.seed,
        "role": candidate.role,
        "policy": candidate.policy,
        "sampling": asdict(candidate.sampling),
        "token_ids": candidate.token_ids,
        "logprobs": candidate.logprobs,
        "text": candidate.text,
        "finish_reason": candidate.finish_reason,
        "versions": [{"version": s.version, "start": s.start, "end": s.end} for s in candidate.versions],
    }


def to_arrow(groups: Iterable[Group], trained_version: int | None = None) -> pa.RecordBatch:
    """Groups as one record batch of `SCHEMA`, one row each."""
    rows = [
        {
            "id": group.id,
            "index": group.index,
            "epoch": group.epoch,
            "version": group.version,
            "messages": json.dumps(group.messages),
            "prompt_ids": group.prompt_ids,
            "candidates": [_candidate_row(candidate) for candidate in group.candidates],
            "engine": group.engine,
            "preference": None if group.preference is None else group.preference.ravel(),
            "scorer": group.scorer,
            "rewards": None if group.rewards is None else group.rewards.ravel(),
            "disagreement": group.disagreement,
            "trained_version": trained_version,
        }
        for group in groups
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _candidates(column: pa.ListScalar) -> tuple[Candidate, ...]:
    """Read candidates without turning every token into a Python object."""
    values = column.values
    tokens, logprobs = values.field("token_ids"), values.field("logprobs")
    names = ("seed", "role", "policy", "sampling", "text", "finish_reason", "versions")
    rest = [values.field(name).to_pylist() for name in names]
    return tuple(
        Candidate(
            seed=seed,
            role=role,
            policy=policy,
            sampling=Sampling(**sampling),
            token_ids=tokens[k].values.to_numpy(zero_copy_only=False),
            logprobs=logprobs[k].values.to_numpy(zero_copy_only=False),
            text=text,
            finish_reason=finish_reason,
            versions=tuple(VersionSpan(**span) for span in versions),
        )
        for k, (seed, role, policy, sampling, text, finish_reason, versions) in enumerate(zip(*rest, strict=True))
    )


def from_arrow(batch: pa.RecordBatch | pa.Table) -> list[Group]:
    """The groups of a record batch; the inverse of `to_arrow`, token for token and bit for bit."""
    return [_group(row) for part in _batches(batch) for row in _rows(part)]


def _batches(batch: pa.RecordBatch | pa.Table) -> Sequence[pa.RecordBatch]:
    return batch.to_batches() if isinstance(batch, pa.Table) else [batch]


def _rows(batch: pa.RecordBatch) -> Iterable[dict[str, pa.Scalar]]:
    for i in range(batch.num_rows):
        yield {name: batch.column(name)[i] for name in batch.schema.names}


def _group(row: dict[str, pa.Scalar]) -> Group:
    candidates = _candidates(row["candidates"])
    return Group(
        id=row["id"].as_py(),
        index=row["index"].as_py(),
        epoch=row["epoch"].as_py(),
        version=row["version"].as_py(),
        messages=tuple(json.loads(row["messages"].as_py())),
        prompt_ids=row["prompt_ids"].values.to_numpy(zero_copy_only=False),
        candidates=candidates,
        engine=row["engine"].as_py(),
        preference=_rows_of(row["preference"], len(candidates)),
        scorer=row["scorer"].as_py(),
        rewards=_rows_of(row["rewards"], len(candidates)),
        disagreement=row["disagreement"].as_py(),
    )


def _rows_of(flat: pa.Scalar, count: int) -> NDArray[np.float64] | None:
    """A matrix of `count` rows that was stored row by row."""
    return flat.values.to_numpy(zero_copy_only=False).reshape(count, -1) if flat.is_valid else None


def summarise(group: Group, rejection: str | None = None, scoring: ScoringFigures | None = None) -> GroupSummary:
    """The few figures of a group that the conductor needs."""
    return GroupSummary(
        id=group.id,
        index=group.index,
        sources=_sources(group.candidates),
        prompt_tokens=len(group.prompt_ids),
        lengths=tuple(len(candidate.token_ids) for candidate in group.candidates),
        truncated=sum(candidate.truncated for candidate in group.candidates),
        rejection=rejection,
        scoring=scoring,
    )


def _sources(candidates: Iterable[Candidate]) -> tuple[Source, ...]:
    oldest: dict[tuple[str, str], int] = {}
    for candidate in candidates:
        key, version = (candidate.role, candidate.policy), candidate.oldest_version
        oldest[key] = min(oldest.get(key, version), version)
    return tuple(Source(role=role, policy=policy, version=version) for (role, policy), version in oldest.items())
