"""A busy clock counts the time during which at least one piece of work is there, once."""

import pytest

from actors.clock import BusyClock


class Hand:
    """The hand of a clock, turned by the test."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_only_time_with_work_counts() -> None:
    hand = Hand()
    clock = BusyClock(hand)
    hand.time += 5
    assert clock.seconds() == 0
    with clock.busy():
        hand.time += 2
        assert clock.seconds() == 2, "work in progress counts"
    hand.time += 3
    with clock.busy():
        hand.time += 1
    assert clock.seconds() == 3


def test_overlapping_work_counts_once() -> None:
    hand = Hand()
    clock = BusyClock(hand)
    first, second = clock.busy(), clock.busy()
    first.__enter__()
    hand.time += 1
    second.__enter__()
    hand.time += 1
    first.__exit__(None, None, None)
    hand.time += 1
    assert clock.seconds() == 3
    second.__exit__(None, None, None)
    hand.time += 1
    assert clock.seconds() == 3


def test_work_that_fails_stops_counting() -> None:
    hand = Hand()
    clock = BusyClock(hand)

    def work() -> None:
        with clock.busy():
            hand.time += 1
            raise KeyError

    with pytest.raises(KeyError):
        work()
    hand.time += 10
    assert clock.seconds() == 1
