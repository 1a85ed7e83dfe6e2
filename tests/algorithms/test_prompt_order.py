"""Every epoch sees every prompt once, in an order of its own that seed and index alone decide."""

import pytest

from algorithms.prompt_order import prompt_at


@pytest.mark.parametrize("count", [1, 7, 20])
def test_an_epoch_is_a_permutation(count: int) -> None:
    drawn = [prompt_at(index, count, seed=3) for index in range(3 * count)]
    for epoch in range(3):
        part = drawn[epoch * count : (epoch + 1) * count]
        assert {found for found, _ in part} == {epoch}
        assert sorted(place for _, place in part) == list(range(count))


def order(seed: int, epoch: int, count: int = 20) -> list[int]:
    return [prompt_at(epoch * count + offset, count, seed)[1] for offset in range(count)]


def test_epochs_and_seeds_differ_in_their_order() -> None:
    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(found) for found in orders}) == 4
    assert list(range(20)) not in orders


def test_a_place_does_not_depend_on_what_was_asked_before() -> None:
    straight = [prompt_at(index, 9, seed=5) for index in range(90)]
    assert [prompt_at(index, 9, seed=5) for index in reversed(range(90))] == straight[::-1]
