"""Pacing proved on a discrete simulation: bounded staleness, no deadlock, every group ends exactly once."""

import heapq
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.ledger import Ledger
from algorithms.pacing import capacity, feasible, near_groups, next_batch, staleness_slack


@dataclass(kw_only=True)
class Simulation:
    """One generator plane and one learner. Group g takes durations[g % len] ticks and may end rejected."""

    max_running: int
    eta: int
    batch: int
    lookahead: int
    durations: list[int]
    rejected: list[bool]
    learning_time: int
    versions: int

    clock: int = 0
    version: int = 0
    admitted: dict[int, int] = field(default_factory=dict)
    running: list[tuple[int, int]] = field(default_factory=list)
    ready: set[int] = field(default_factory=set)
    dropped: list[int] = field(default_factory=list)
    trained: list[tuple[int, list[int]]] = field(default_factory=list)

    def run(self) -> None:
        busy_until, current = 0, None
        while self.version < self.versions:
            self.admit()
            if current is None and (current := self.choose()) is not None:
                self.ready -= set(current)
                busy_until = self.clock + self.learning_time
            events = [self.running[0][0]] if self.running else []
            events += [busy_until] if current is not None else []
            assert events, f"deadlock at version {self.version}"
            self.clock = min(events)
            if current is not None and busy_until <= self.clock:
                self.trained.append((self.version, current))
                self.version, current = self.version + 1, None
            while self.running and self.running[0][0] <= self.clock:
                _, index = heapq.heappop(self.running)
                self.dropped.append(index) if self.rejected[index % len(self.rejected)] else self.ready.add(index)

    def admit(self) -> None:
        accepted = len(self.admitted) - len(self.running) - len(self.dropped)
        free = capacity(
            max_running=self.max_running,
            running=len(self.running),
            eta=self.eta,
            version=self.version,
            batch=self.batch,
            accepted=accepted,
        )
        for _ in range(free):
            index = len(self.admitted)
            self.admitted[index] = self.version
            heapq.heappush(self.running, (self.clock + self.durations[index % len(self.durations)], index))

    def choose(self) -> list[int] | None:
        waiting = sorted([(index, True) for index in self.ready] + [(index, False) for _, index in self.running])
        oldest = waiting[0][0] if waiting else len(self.admitted)
        taken = sorted(index for _, group in self.trained for index in group)
        return next_batch(waiting, self.batch, self.lookahead, [index for index in taken if index > oldest])

    def staleness(self) -> list[int]:
        return [version - self.admitted[index] for version, group in self.trained for index in group]


@st.composite
def simulations(draw: st.DrawFn, max_eta: int = 4, max_lookahead: int = 12) -> Simulation:
    eta, batch = draw(st.integers(0, max_eta)), draw(st.integers(1, 5))
    rejected = draw(st.lists(st.booleans(), min_size=1, max_size=12))
    return Simulation(
        max_running=draw(st.integers(1, 20)),
        eta=eta,
        batch=batch,
        lookahead=draw(st.integers(0, min(max_lookahead, eta * batch))),
        durations=draw(st.lists(st.integers(0, 60), min_size=1, max_size=40)),
        rejected=[*rejected, False],
        learning_time=draw(st.integers(0, 20)),
        versions=15,
    )


@settings(max_examples=300)
@given(simulations())
def test_staleness_is_bounded_nothing_hangs_and_every_group_ends_once(simulation: Simulation) -> None:
    assert (
        feasible(
            max_running=simulation.max_running,
            eta=simulation.eta,
            batch=simulation.batch,
            lookahead=simulation.lookahead,
        )
        is None
    )
    simulation.run()
    assert max(simulation.staleness()) <= simulation.eta + staleness_slack(simulation.lookahead, simulation.batch)
    assert all(len(group) == simulation.batch for _, group in simulation.trained)
    trained = [index for _, group in simulation.trained for index in group]
    in_flight = [*simulation.ready, *(index for _, index in simulation.running)]
    assert sorted([*trained, *simulation.dropped, *in_flight]) == list(range(len(simulation.admitted)))


@given(simulations(max_eta=0))
def test_without_staleness_each_batch_was_admitted_at_its_own_version(simulation: Simulation) -> None:
    simulation.run()
    assert set(simulation.staleness()) == {0}


@given(simulations(max_lookahead=0))
def test_without_lookahead_groups_are_trained_in_order_of_admission(simulation: Simulation) -> None:
    simulation.run()
    order = [index for _, group in simulation.trained for index in group]
    assert order == sorted(order)


def straggler(**changes: int) -> Simulation:
    """Group 0 takes for ever, the others one tick; batches of two."""
    arguments: dict[str, Any] = {
        "max_running": 8,
        "eta": 2,
        "batch": 2,
        "lookahead": 2,
        "learning_time": 1,
        "versions": 12,
    } | changes
    durations = [10_000] + [1] * 999
    return Simulation(durations=durations, rejected=[False], **arguments)


@pytest.mark.parametrize(("lookahead", "versions_before"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)])
def test_each_batch_of_lookahead_lets_one_more_batch_pass(lookahead: int, versions_before: int) -> None:
    """Group 0 never finishes in time: it is overtaken, and then waited for."""
    simulation = straggler(lookahead=lookahead)
    simulation.run()
    trained_at = next(version for version, group in simulation.trained if 0 in group)
    assert trained_at == versions_before == staleness_slack(lookahead, 2)


@pytest.mark.parametrize(("lookahead", "eta"), [(0, 0), (0, 2), (2, 1), (3, 2)])
def test_the_bound_is_attained(lookahead: int, eta: int) -> None:
    """The last group admitted at version 0 is the slow one."""
    last = 2 * (eta + 1) - 1
    simulation = straggler(lookahead=lookahead, eta=eta, max_running=100)
    simulation.durations = [1] * last + [10_000] + [1] * 999
    simulation.run()
    assert max(simulation.staleness()) == eta + staleness_slack(lookahead, 2)


def test_capacity_by_hand() -> None:
    def free(**changes: int) -> int:
        return capacity(
            **{"max_running": 10, "running": 3, "eta": 1, "version": 2, "batch": 4, "accepted": 9} | changes
        )

    assert free() == 4  # min(10 - 3, (1 + 2 + 1) * 4 - (9 + 3))
    assert free(max_running=5) == 2
    assert free(version=0) == 0
    assert free(eta=8) == 7
    assert free(max_running=1) == 0


@given(st.integers(0, 50), st.integers(1, 20))
def test_slack_is_the_ceiling(lookahead: int, batch: int) -> None:
    slack = staleness_slack(lookahead, batch)
    assert (slack - 1) * batch < lookahead <= slack * batch


def test_next_batch_takes_ready_groups_inside_the_window_only() -> None:
    window = [(3, False), (5, True), (6, False), (8, True), (9, True)]
    assert next_batch(window, batch=2, lookahead=2, overtakers=[]) == [5, 8]
    assert next_batch(window, batch=2, lookahead=1, overtakers=[]) is None
    assert next_batch(window, batch=2, lookahead=0, overtakers=[]) is None
    assert next_batch(window[1:2], batch=2, lookahead=2, overtakers=[]) is None
    assert next_batch([(1, True), (2, True), (3, True)], batch=2, lookahead=0, overtakers=[]) == [1, 2]


def test_next_batch_waits_for_a_group_that_has_been_overtaken_enough() -> None:
    window = [(3, False), (8, True), (9, True)]
    assert next_batch(window, batch=2, lookahead=1, overtakers=[]) == [8, 9]
    assert next_batch(window, batch=2, lookahead=1, overtakers=[5]) is None
    assert next_batch(window, batch=2, lookahead=3, overtakers=[5, 6]) == [8, 9]
    assert next_batch(window, batch=2, lookahead=3, overtakers=[5, 6, 7]) is None
    assert next_batch([(3, True), *window[1:]], batch=2, lookahead=1, overtakers=[5]) == [3, 8]
    later = [(4, True), (6, False), (8, True)]
    assert next_batch(later, batch=2, lookahead=1, overtakers=[5]) == [4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "no version would ever be trained"),
        ({"max_running": 0}, "no group could ever be admitted"),
        ({"eta": -1}, "eta is -1"),
        ({"lookahead": -1}, "lookahead is -1"),
        ({"lookahead": 5}, "raise eta to 2 or lower lookahead to 4"),
    ],
)
def test_configurations_that_would_deadlock_are_explained(changes: dict[str, int], message: str) -> None:
    settings = {"max_running": 1, "eta": 1, "batch": 4, "lookahead": 4}
    assert feasible(**settings) is None
    reason = feasible(**settings | changes)
    assert reason is not None
    assert message in reason


def test_admitting_less_than_a_batch_does_deadlock() -> None:
    with pytest.raises(AssertionError, match="deadlock"):
        straggler(eta=-1, lookahead=0).run()


@given(
    batch=st.integers(1, 4),
    eta=st.integers(0, 4),
    bound=st.integers(0, 4),
    rejected=st.lists(st.booleans(), min_size=1, max_size=12),
)
def test_what_waits_for_its_batch_is_fresh_enough_and_never_waits_for_ever(
    batch: int, eta: int, bound: int, rejected: list[bool]
) -> None:
    """Groups are admitted up to eta versions ahead; their opponents are sampled once the batch is `bound` away."""
    ledger, version, sampled = Ledger(), 0, dict[int, int]()
    for _ in range(12):
        while capacity(
            max_running=100, running=ledger.running, eta=eta, version=version, batch=batch, accepted=ledger.accepted
        ):
            ledger.admit()
        near = ledger.oldest(near_groups(bound=bound, version=version, batch=batch, trained=ledger.trained))
        for index in near:
            sampled.setdefault(index, version)
            if ledger.in_flight[index] == "running":
                # A rejection moves the groups behind it forward, into a batch that may be nearer than it was.
                ledger.reject(index, "any") if rejected[index % len(rejected)] else ledger.accept(index)
        chosen = next_batch(ledger.window(), batch, 0, ledger.overtakers)
        if chosen is None:
            continue  # rejected ones are missing; the next round admits more
        assert all(0 <= version - sampled[index] <= bound for index in chosen)
        ledger.release(chosen)
        ledger.train(chosen)
        version += 1
    assert version == 12 or any(rejected)


def test_with_bound_0_exactly_the_coming_batch_is_near() -> None:
    assert near_groups(bound=0, version=3, batch=4, trained=12) == 4
    assert near_groups(bound=2, version=3, batch=4, trained=12) == 12
    assert near_groups(bound=0, version=2, batch=4, trained=12) == 0, "an engine that still serves an older version"
