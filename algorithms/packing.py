"""Groups into micro-batches and onto ranks, deterministically; no group is ever split or lost."""

from collections.abc import Sequence


def pack(lengths: Sequence[int], groups: Sequence[Sequence[int]], token_budget: int) -> list[list[int]]:
    """Micro-batches of at most `token_budget` tokens, each a list of positions in `groups`.

    `lengths[s]` is the number of tokens of sequence s, `groups[g]` the sequences that have to stay together.
    First-fit decreasing: the longest group first, into the first micro-batch with room (equal lengths in the
    order given). A group longer than the budget gets a micro-batch of its own.
    """
    if token_budget < 1:
        raise ValueError(f"the token budget of a micro-batch must be positive, got {token_budget}")
    tokens = [sum(lengths[sequence] for sequence in group) for group in groups]
    batches: list[list[int]] = []
    room: list[int] = []
    for group in sorted(range(len(groups)), key=lambda g: -tokens[g]):
        slot = next((b for b, left in enumerate(room) if tokens[group] <= left), None)
        if slot is None:
            slot = len(batches)
            batches.append([])
            room.append(token_budget)
        batches[slot].append(group)
        room[slot] -= tokens[group]
    return batches


def pad_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Rows of these lengths in micro-batches of at most `token_budget` tokens, padding included.

    Rows of like length share a micro-batch, the longest first; a row beyond the budget gets one of its own.
    """
    if token_budget < 1:
        raise ValueError(f"the token budget of a micro-batch must be positive, got {token_budget}")
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def split_evenly(costs: Sequence[float], workers: int) -> list[list[int]]:
    """Positions of `costs` for each of `workers` ranks, ascending; with fewer groups a rank may be empty.

    Longest processing time first (Graham 1969): the dearest item to the least loaded rank, which keeps the
    largest load within 4/3 of the optimum. Ties go to the lower position and to the lower rank.
    """
    if workers < 1:
        raise ValueError(f"need at least one worker, got {workers}")
    loads = [0.0] * workers
    shares: list[list[int]] = [[] for _ in range(workers)]
    for item in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = min(range(workers), key=lambda w: (loads[w], w))
        shares[rank].append(item)
        loads[rank] += costs[item]
    return [sorted(share) for share in shares]
