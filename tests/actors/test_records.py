"""Records come back from Arrow token for token and bit for bit; ids and seeds follow from their parts alone."""

import io
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.records import (
    SCHEMA,
    Candidate,
    Group,
    Sampling,
    VersionSpan,
    derive_seed,
    from_arrow,
    group_id,
    summarise,
    to_arrow,
)
from tests.examples import candidate, group

texts = st.text(max_size=12)
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=6)
logprobs = st.floats(width=32, allow_nan=True, allow_infinity=True)
probabilities = st.floats(0, 1)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    tokens = draw(token_ids)
    cut = draw(st.integers(0, len(tokens)))
    return Candidate(
        seed=draw(st.integers(0, 2**31 - 1)),
        role=draw(texts),
        policy=draw(texts),
        sampling=Sampling(temperature=draw(probabilities), top_p=draw(probabilities), top_k=5, max_new_tokens=7),
        token_ids=np.array(tokens, dtype=np.int32),
        logprobs=np.array([draw(logprobs) for _ in tokens], dtype=np.float32),
        text=draw(texts),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        versions=(VersionSpan(version=3, start=0, end=cut), VersionSpan(version=4, start=cut, end=len(tokens))),
    )


@st.composite
def groups(draw: st.DrawFn) -> Group:
    members = tuple(draw(st.lists(candidates(), min_size=1, max_size=3)))
    matrix = np.array([[draw(probabilities) for _ in members] for _ in members], dtype=np.float64)
    scored = draw(st.booleans())
    roles = st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": texts})
    return Group(
        id=draw(texts),
        index=draw(st.integers(0, 2**62)),
        epoch=draw(st.integers(0, 2**31)),
        version=draw(st.integers(0, 2**31)),
        messages=tuple(draw(st.lists(roles, max_size=3))),
        prompt_ids=np.array(draw(token_ids), dtype=np.int32),
        candidates=members,
        engine=draw(texts),
        preference=matrix if scored else None,
        scorer=draw(texts) if scored else None,
        rewards=matrix[:, : draw(st.integers(1, len(members)))].copy() if scored and draw(st.booleans()) else None,
        disagreement=draw(probabilities) if scored else None,
    )


def assert_identical(found: object, expected: object) -> None:
    """Equal in every field, arrays in type, shape and every bit."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    elif isinstance(expected, Group | Candidate):
        for field in fields(expected):
            assert_identical(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, tuple):
        assert isinstance(found, tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_identical(one, other)
    else:
        assert found == expected


def assert_same_groups(found: Sequence[Group], expected: Sequence[Group]) -> None:
    assert_identical(tuple(found), tuple(expected))


@settings(max_examples=60, deadline=None)
@given(st.lists(groups(), max_size=3))
def test_groups_survive_arrow_and_parquet(written: list[Group]) -> None:
    batch = to_arrow(written)
    assert batch.schema.equals(SCHEMA, check_metadata=True)
    assert_same_groups(from_arrow(batch), written)
    for i, one in enumerate(written):
        assert_same_groups(from_arrow(batch.slice(i, 1)), [one])
    file = io.BytesIO()
    pq.write_table(pa.Table.from_batches([batch, batch], SCHEMA), file)
    assert_same_groups(from_arrow(pq.read_table(file, schema=SCHEMA)), written * 2)


def test_groups_of_the_schema_before_this_one_are_read(tmp_path: Path) -> None:
    written = [group(0, [1], [[2], [3]])]
    older = to_arrow(written).drop_columns(["rewards", "disagreement"])
    pq.write_table(pa.Table.from_batches([older]), tmp_path / "older.parquet")
    assert_same_groups(from_arrow(pq.read_table(tmp_path / "older.parquet", schema=SCHEMA)), written)


def test_the_version_that_trained_a_group_is_a_column() -> None:
    batch = to_arrow([group(0, [1], [[2], [3]])], trained_version=7)
    assert batch["trained_version"].to_pylist() == [7]
    assert to_arrow([group(0, [1], [[2], [3]])])["trained_version"].to_pylist() == [None]


def test_the_schema_says_what_it_holds() -> None:
    assert SCHEMA.metadata == {b"nashloop": b"group/3"}
    assert set(SCHEMA.names) == {field.name for field in fields(Group)} | {"trained_version"}
    assert {field.name for field in SCHEMA.field("candidates").type.value_type} == {f.name for f in fields(Candidate)}


parts = st.lists(st.one_of(st.integers(0, 10**9), texts), min_size=1, max_size=4)


@given(parts, parts)
def test_a_seed_depends_on_every_part_and_on_nothing_else(one: list[int | str], other: list[int | str]) -> None:
    assert derive_seed(*one) == derive_seed(*one)
    assert 0 <= derive_seed(*one) < 2**31
    # Two lists of parts agree by chance once in two thousand million.
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def test_seeds_do_not_confuse_parts() -> None:
    lists: list[tuple[int | str, ...]] = [(1, 23), (12, 3), (123,), ("1", 23), ("1,23",), (1, "candidate", 0)]
    lists += [(0, "candidate", group_index, k) for group_index in range(50) for k in range(8)]
    assert len({derive_seed(*found) for found in lists}) == len(lists)


def test_a_seed_is_the_same_in_every_process() -> None:
    assert derive_seed(0, "candidate", 7, 1) == 1382657293


def test_an_id_names_run_epoch_and_index() -> None:
    assert group_id(0, 0, 7) == "s0-e0-00000007"
    ids = {group_id(seed, epoch, index) for seed in range(3) for epoch in range(3) for index in range(3)}
    assert len(ids) == 27


def test_a_group_is_as_old_as_its_oldest_token() -> None:
    young, old = candidate([1, 2], version=5), candidate([3], version=2)
    spans = (VersionSpan(version=4, start=0, end=1), VersionSpan(version=3, start=1, end=2))
    mixed = replace(candidate([1, 2]), versions=spans)
    assert mixed.oldest_version == 3
    assert replace(group(0, [1], [[1], [2]]), candidates=(young, mixed)).oldest_version == 3
    assert replace(group(0, [1], [[1], [2]]), candidates=(young, old, mixed)).oldest_version == 2


def test_a_summary_names_the_oldest_weights_of_each_role_and_policy() -> None:
    members = (
        candidate([1], version=5),
        candidate([2], version=3),
        replace(candidate([3], version=4), role="opponent"),
        replace(candidate([4], version=1), role="opponent", policy="previous(1)"),
    )
    found = summarise(replace(group(0, [1], [[1], [2]]), candidates=members))
    assert [(source.role, source.policy, source.version) for source in found.sources] == [
        ("pair", "current", 3),
        ("opponent", "current", 4),
        ("opponent", "previous(1)", 1),
    ]


def test_a_group_joins_what_several_samplers_wrote() -> None:
    first = group(0, [1], [[1], [2]])
    joined = first.joined([candidate([3])], "half-0").joined([candidate([4])], "half-0")
    assert [c.token_ids.tolist() for c in joined.candidates] == [[1], [2], [3], [4]]
    assert joined.engine == "engine-0+half-0"


def test_a_summary_counts_and_keeps_no_text() -> None:
    found = group(9, [1, 2, 3], [[4], [5, 6]])
    found = replace(found, candidates=(found.candidates[0], candidate([5, 6], text="secret", truncated=True)))
    summary = summarise(found, "scorer_error")
    assert (summary.id, summary.index, summary.prompt_tokens) == ("s0-e0-00000009", 9, 3)
    assert (summary.lengths, summary.truncated, summary.rejection) == ((1, 2), 1, "scorer_error")
    assert "secret" not in repr(summary)


def test_records_never_change() -> None:
    unscored = replace(group(0, [1], [[2], [3]]), preference=None, scorer=None)
    scored = unscored.scored(np.full((2, 2), 0.5), "scorer-1")
    assert unscored.preference is None
    assert scored.scorer == "scorer-1"
    with pytest.raises(FrozenInstanceError):
        scored.index = 3  # type: ignore[misc]
