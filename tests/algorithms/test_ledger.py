"""Promise 1: every admitted group is trained, rejected or in flight, exactly once, whatever happens when."""

import json
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from algorithms.ledger import Ledger, LedgerError


class AnyRun(RuleBasedStateMachine):
    """Random lives of groups beside a model that remembers every one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.states: dict[int, str] = {}

    def having(self, state: str) -> list[int]:
        return sorted(index for index, found in self.states.items() if found == state)

    @rule()
    def admit(self) -> None:
        index = self.ledger.admit()
        assert index == len(self.states), "indices are dense and never given twice"
        self.states[index] = "running"

    @precondition(lambda self: self.having("running"))
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(self.having("running")))
        self.ledger.accept(index)
        self.states[index] = "ready"

    @precondition(lambda self: self.having("running"))
    @rule(data=st.data(), reason=st.sampled_from(["scorer_error", "generation_failed"]))
    def reject(self, data: st.DataObject, reason: str) -> None:
        index = data.draw(st.sampled_from(self.having("running")))
        self.ledger.reject(index, reason)
        self.states[index] = reason

    @precondition(lambda self: self.having("ready"))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ready = self.having("ready")
        chosen = data.draw(st.lists(st.sampled_from(ready), min_size=1, unique=True))
        self.ledger.release(chosen)
        self.states |= dict.fromkeys(chosen, "released")

    @precondition(lambda self: self.having("released"))
    @rule(data=st.data())
    def train(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.having("released")), min_size=1, unique=True))
        self.ledger.train(chosen)
        self.states |= dict.fromkeys(chosen, "trained")

    @precondition(lambda self: self.states)
    @rule(data=st.data(), call=st.sampled_from(["accept", "reject", "release", "train"]))
    def try_what_is_impossible(self, data: st.DataObject, call: str) -> None:
        needed = {"accept": "running", "reject": "running", "release": "ready", "train": "released"}[call]
        wrong = [index for index, state in self.states.items() if state != needed] + [len(self.states), -1]
        index = data.draw(st.sampled_from(wrong))
        before = self.ledger.snapshot(), self.ledger.window()
        calls: dict[str, Callable[[], None]] = {
            "accept": lambda: self.ledger.accept(index),
            "reject": lambda: self.ledger.reject(index, "reason"),
            "release": lambda: self.ledger.release([index]),
            "train": lambda: self.ledger.train([index]),
        }
        with pytest.raises(LedgerError, match=f"group {index} should be {needed}"):
            calls[call]()
        assert (self.ledger.snapshot(), self.ledger.window()) == before

    @rule()
    def die_and_resume(self) -> None:
        counts = self.ledger.counts()
        self.ledger = Ledger.restore(json.loads(json.dumps(self.ledger.snapshot())))
        assert self.ledger.counts() == counts
        self.states |= dict.fromkeys(self.having("ready") + self.having("released"), "running")

    @invariant()
    def the_ledger_balances(self) -> None:
        counts = self.ledger.counts()
        assert counts["admitted"] == counts["trained"] + counts["rejected"] + counts["in_flight"]
        assert counts["trained"] == len(self.having("trained"))
        assert counts["rejected"] == len(self.having("scorer_error") + self.having("generation_failed"))
        assert self.ledger.rejections["scorer_error"] == len(self.having("scorer_error"))
        assert self.ledger.running == len(self.having("running"))
        scored = sum(len(self.having(state)) for state in ("ready", "released", "trained"))
        assert self.ledger.accepted == scored

    @invariant()
    def the_window_holds_what_no_batch_has_taken(self) -> None:
        waiting = sorted(self.having("running") + self.having("ready"))
        assert self.ledger.window() == [(index, self.states[index] == "ready") for index in waiting]


TestAnyRun = AnyRun.TestCase
TestAnyRun.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_groups_in_flight_return_to_running_under_their_own_index() -> None:
    ledger = Ledger()
    for _ in range(5):
        ledger.admit()
    for index in (0, 1, 2):
        ledger.accept(index)
    ledger.release([0, 1])
    ledger.train([0])
    restored = Ledger.restore(ledger.snapshot())
    assert restored.in_flight == dict.fromkeys([1, 2, 3, 4], "running")
    assert restored.trained == 1
    assert restored.admit() == 5


def test_a_refused_batch_leaves_no_half_of_it_counted() -> None:
    ledger = Ledger()
    ledger.admit()
    ledger.admit()
    ledger.accept(0)
    with pytest.raises(LedgerError):
        ledger.release([0, 1])
    assert ledger.window()[0] == (0, True), "group 0 must not be released by a call that failed"


def test_overtakers_are_those_released_past_the_oldest_waiting_group() -> None:
    ledger = Ledger()
    for _ in range(6):
        ledger.admit()
    for index in (0, 2, 3, 5):
        ledger.accept(index)
    ledger.release([0, 2, 3])
    assert ledger.overtakers == [2, 3], "group 0 was released before group 1, in order"
    ledger.train([0, 2])
    assert ledger.overtakers == [2, 3], "training does not undo the overtaking"
    assert Ledger.restore(ledger.snapshot()).overtakers == [2], "group 3 is issued again, so it overtook nobody"
    ledger.accept(1)
    ledger.release([1])
    assert ledger.overtakers == [], "the oldest that waits is group 4 now"
    ledger.release([5])
    assert ledger.overtakers == [5]
    ledger.reject(4, "generation_failed")
    ledger.release([])
    assert ledger.overtakers == []


def test_what_is_kept_does_not_grow_with_the_history() -> None:
    def size_after(batches: int) -> int:
        ledger = Ledger()
        ahead = [ledger.admit() for _ in range(4)]
        for _ in range(batches):
            batch, ahead = ahead[:2], [*ahead[2:], ledger.admit(), ledger.admit()]
            for index in batch:
                ledger.accept(index)
            ledger.release(batch)
            ledger.train(batch)
        snapshot = ledger.snapshot()
        return len(snapshot["in_flight"]) + len(snapshot["overtakers"]) + len(snapshot["rejections"])

    assert size_after(500) == size_after(5) == 4
