"""The ledger of groups: every admitted group ends in exactly one of trained, rejected, or is still in flight.

`admitted == trained + rejected + in flight` holds after every call, and an impossible transition raises instead of
being absorbed. What the ledger keeps grows with the groups in flight, never with the history of the run.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

State = Literal["running", "ready", "released"]
"""In generation or scoring; scored and waiting; handed to the learner."""


class LedgerError(RuntimeError):
    """A transition that would count a group twice or lose it."""


@dataclass(slots=True)
class Ledger:
    """Counts of all groups and the state of those in flight, by admission index."""

    next_index: int = 0
    trained: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    in_flight: dict[int, State] = field(default_factory=dict)
    """In order of admission."""
    overtakers: list[int] = field(default_factory=list)
    """Ascending indices of groups that went to the learner before the oldest one that still waits."""

    @property
    def admitted(self) -> int:
        """Groups ever admitted."""
        return self.next_index

    @property
    def rejected(self) -> int:
        """Groups that ended with a reason instead of an update."""
        return self.rejections.total()

    @property
    def running(self) -> int:
        """Groups in generation or scoring."""
        return sum(state == "running" for state in self.in_flight.values())

    @property
    def accepted(self) -> int:
        """Groups scored so far, trained ones included: the `accepted` of the capacity formula."""
        return self.trained + len(self.in_flight) - self.running

    def admit(self) -> int:
        """Take the next index into flight."""
        index = self.next_index
        self.next_index += 1
        self.in_flight[index] = "running"
        return index

    def accept(self, index: int) -> None:
        """Generation and scoring are done."""
        self._move(index, "running", "ready")

    def reject(self, index: int, reason: str) -> None:
        """The group ends here, for a reason that is counted by name."""
        self._expect(index, "running")
        del self.in_flight[index]
        self.rejections[reason] += 1

    def release(self, indices: Iterable[int]) -> None:
        """A batch of ready groups goes to the learner, whole or not at all."""
        for index in (batch := list(indices)):
            self._expect(index, "ready")
        for index in batch:
            self._move(index, "ready", "released")
            insort(self.overtakers, index)
        oldest = min((i for i, state in self.in_flight.items() if state != "released"), default=self.next_index)
        self.overtakers = [index for index in self.overtakers if index > oldest]

    def train(self, indices: Iterable[int]) -> None:
        """The learner has updated the policy on a released batch, whole or not at all."""
        for index in (batch := list(indices)):
            self._expect(index, "released")
        for index in batch:
            del self.in_flight[index]
            self.trained += 1

    def window(self) -> list[tuple[int, bool]]:
        """(index, ready) of the groups that no batch has taken yet, oldest first."""
        waiting = ((i, state) for i, state in self.in_flight.items() if state != "released")
        return sorted((i, state == "ready") for i, state in waiting)

    def oldest(self, count: int) -> list[int]:
        """The first `count` groups in flight, in order of admission."""
        return list(islice(self.in_flight, count))

    def counts(self) -> dict[str, int]:
        """The figures of promise 1."""
        return {
            "admitted": self.admitted,
            "trained": self.trained,
            "rejected": self.rejected,
            "in_flight": len(self.in_flight),
        }

    def snapshot(self) -> dict[str, Any]:
        """JSON that `restore` understands; groups in flight will be issued again, under the same index."""
        return {
            "next_index": self.next_index,
            "trained": self.trained,
            "rejections": dict(self.rejections),
            "in_flight": sorted(self.in_flight),
            "overtakers": [index for index in self.overtakers if index not in self.in_flight],
        }

    @classmethod
    def restore(cls, snapshot: dict[str, Any]) -> "Ledger":
        """The ledger of a snapshot, with every group in flight back at `running`."""
        return cls(
            next_index=snapshot["next_index"],
            trained=snapshot["trained"],
            rejections=Counter(snapshot["rejections"]),
            in_flight=dict.fromkeys(snapshot["in_flight"], "running"),
            overtakers=snapshot["overtakers"],
        )

    def _expect(self, index: int, state: State) -> None:
        found = self.in_flight.get(index, "not in flight")
        if found != state:
            raise LedgerError(f"group {index} should be {state} and is {found}")

    def _move(self, index: int, before: State, after: State) -> None:
        self._expect(index, before)
        self.in_flight[index] = after
