"""Staleness by pacing, never by discarding: when a group may be admitted, which groups make a batch.

Contract: no group is trained more than eta + ceil(lookahead / batch) versions after the version it was
admitted at, no group waits for ever, and no finished group is thrown away for its age. Version v is the
policy after v trained batches. Only live groups count: a rejected group leaves every number of this module.
"""

from bisect import bisect_right
from collections.abc import Sequence


def capacity(*, max_running: int, running: int, eta: int, version: int, batch: int, accepted: int) -> int:
    """Groups to admit: max(0, min(max_running - running, (eta + version + 1) batch - (accepted + running))).

    `running`: admitted, neither finished nor rejected. `accepted`: finished since the start of the run,
    trained ones included. AReaL, 2505.24298; eta is its maximum off-policyness, and 0 is the
    synchronous loop.
    """
    return max(0, min(max_running - running, (eta + version + 1) * batch - (accepted + running)))


def near_groups(*, bound: int, version: int, batch: int, trained: int) -> int:
    """How many groups in flight, oldest first, will be trained at most `bound` versions after `version`.

    Strict FIFO trains the live group of rank r, trained ones included, at version ceil(r / batch) - 1, and rejections
    only lower r: so these are the ranks up to (bound + version + 1) batch.
    """
    return max(0, (bound + version + 1) * batch - trained)


def staleness_slack(lookahead: int, batch: int) -> int:
    """Versions by which looking ahead can delay a group beyond eta: ceil(lookahead / batch).

    A run that promises a bound admits with eta = bound - slack.
    """
    return -(-lookahead // batch)


def next_batch(
    window: Sequence[tuple[int, bool]], batch: int, lookahead: int, overtakers: Sequence[int]
) -> list[int] | None:
    """Windowed FIFO: the first `batch` ready among the first `batch + lookahead` untrained; None to wait.

    `window`: (admission index, ready) of the untrained live groups in order of admission. `overtakers`:
    ascending admission indices of trained groups that were admitted after the oldest untrained one. Lookahead
    0 is strict FIFO.

    The window alone would let a straggler be overtaken for ever, so overdue groups are waited for. Let s =
    ceil(lookahead / batch) and let a group's rank r be its 1-based position among all live groups, trained
    ones included. Strict FIFO trains rank r in batch ceil(r / batch); here batch n must contain every
    untrained group of rank at most (n - s) batch. With (n - 1) batch groups trained, the group at position p
    of the window, overtaken by o, has rank p + (n - 1) batch - o, so it is overdue exactly if
    o >= p + (s - 1) batch.

    Bound. A group admitted at version v has rank r <= (eta + v + 1) batch by `capacity`, and rejections only
    lower it. It is therefore in a batch n <= ceil(r / batch) + s <= eta + v + 1 + s, and batch n is trained
    at version n - 1.

    Feasible. All ranks up to (n - 1 - s) batch are in earlier batches, so at most `batch` groups are overdue.
    As s batch >= lookahead, they lie inside the window; they come first in it, so taking ready groups in
    order takes them.
    """
    slack = staleness_slack(lookahead, batch)
    ready = []
    for position, (index, is_ready) in enumerate(window[: batch + lookahead], start=1):
        if is_ready:
            ready.append(index)
            if len(ready) == batch:
                return ready
        elif len(overtakers) - bisect_right(overtakers, index) >= position + (slack - 1) * batch:
            return None
    return None


def feasible(*, max_running: int, eta: int, batch: int, lookahead: int) -> str | None:
    """Why this configuration cannot run, or None if it can.

    A group holds its running slot only until it is accepted, so one slot is enough for any batch, at eta = 0
    as well: while fewer than `batch` groups are untrained, `capacity` is positive as soon as a slot is free.
    """
    if batch < 1:
        return f"batch is {batch} groups: no version would ever be trained; it must be at least 1"
    if max_running < 1:
        return f"max_running is {max_running}: no group could ever be admitted; it must be at least 1"
    if eta < 0:
        return f"eta is {eta}: at version 0 less than one batch could be admitted; it must be at least 0"
    if lookahead < 0:
        return f"lookahead is {lookahead}: less than one batch would be looked at; it must be at least 0"
    if (slack := staleness_slack(lookahead, batch)) > eta:
        return (
            f"lookahead {lookahead} with batch {batch} delays groups by up to {slack} versions, more than "
            f"eta = {eta} allows; raise eta to {slack} or lower lookahead to {eta * batch}"
        )
    return None
