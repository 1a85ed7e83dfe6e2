"""Packing loses nothing, splits nothing, keeps its budget, and leaves no room unused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.packing import pack, pad_batches, split_evenly

lengths_of_groups = st.lists(st.lists(st.integers(0, 30), max_size=4), max_size=12)


def flatten(members: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Lengths of sequences, and groups as indices into them."""
    lengths = [length for group in members for length in group]
    positions = iter(range(len(lengths)))
    return lengths, [[next(positions) for _ in group] for group in members]


@given(lengths_of_groups, st.integers(1, 100))
def test_every_group_is_in_one_micro_batch_within_budget(members: list[list[int]], budget: int) -> None:
    lengths, groups = flatten(members)
    batches = pack(lengths, groups, budget)
    assert sorted(group for batch in batches for group in batch) == list(range(len(groups)))
    for batch in batches:
        tokens = sum(lengths[sequence] for group in batch for sequence in groups[group])
        assert tokens <= budget or len([group for group in batch if groups[group] and sum(members[group])]) == 1
    assert pack(lengths, groups, budget) == batches


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_first_fit_decreasing_leaves_at_most_one_micro_batch_half_empty(lengths: list[int]) -> None:
    batches = pack(lengths, [[i] for i in range(len(lengths))], token_budget=50)
    filled = [sum(lengths[group] for group in batch) for batch in batches]
    assert sum(tokens <= 25 for tokens in filled) <= 1
    leading = [lengths[batch[0]] for batch in batches]
    assert leading == sorted(leading, reverse=True)


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 120))
def test_padded_rows_keep_the_budget_and_waste_little(lengths: list[int], budget: int) -> None:
    batches = pad_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch, following in zip(batches, [*batches[1:], []], strict=False):
        longest = max(lengths[row] for row in batch)
        assert len(batch) * longest <= budget or len(batch) == 1
        if following:
            assert min(lengths[row] for row in batch) >= lengths[following[0]]
            assert (len(batch) + 1) * longest > budget, "the next row would have had room"


def test_packing_by_hand() -> None:
    assert pack([4, 3, 3, 6, 2], [[0], [1, 2], [3], [4]], token_budget=10) == [[1, 0], [2, 3]]
    assert pack([5, 5, 5], [[0], [1], [2]], token_budget=10) == [[0, 1], [2]]
    assert pack([11, 1], [[0], [1]], token_budget=10) == [[0], [1]]
    assert pack([], [], token_budget=10) == []
    with pytest.raises(ValueError, match="budget"):
        pack([1], [[0]], token_budget=0)
    with pytest.raises(ValueError, match="budget"):
        pad_batches([1], token_budget=0)


@given(st.lists(st.integers(0, 100), max_size=20), st.integers(1, 6))
def test_split_is_a_partition_whose_loads_differ_by_at_most_one_item(costs: list[int], workers: int) -> None:
    shares = split_evenly(costs, workers)
    assert len(shares) == workers
    assert sorted(item for share in shares for item in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(costs[item] for item in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)
    assert split_evenly(costs, workers) == shares


def test_split_by_hand() -> None:
    assert split_evenly([3, 3, 2, 2, 2], 2) == [[0, 2, 4], [1, 3]]
    assert split_evenly([1, 9, 1, 1], 2) == [[1], [0, 2, 3]]
    assert split_evenly([1.0], 3) == [[0], [], []]
    with pytest.raises(ValueError, match="worker"):
        split_evenly([1.0], 0)
