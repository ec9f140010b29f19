"""Which blocks to recompute so that a step fits, at the least extra time (Chen et al. 2016, solved exactly).

The model, from a trace without recomputation: block i of the forward pass saves `saved[i]` bytes until its backward,
and recomputing it takes `seconds[i]`. When the backward pass reaches block i, what the kept blocks before it saved is
still there, and block i's own activations are there whether they were kept or just recomputed. So with K the kept
blocks, the peak above everything else is

    max over i of (sum of saved[j] for j < i in K) + saved[i]

and choosing K is a knapsack with one constraint a block. It is solved over bytes rounded up to `grain`, from the
first block to the last; the planner then traces the answer itself, so the model only has to rank.
"""

from __future__ import annotations

from collections.abc import Sequence

GRAINS = 2048
"""Parts that the room is divided in: the rounding costs at most blocks/2048 of the room."""


def choose(saved: Sequence[int], seconds: Sequence[float], room: int) -> tuple[int, ...] | None:
    """Indices of the blocks to recompute, fewest seconds (then fewest blocks); None if even all are too few."""
    if room < 0:
        return None
    grain = max(1, room // GRAINS)
    sizes = [-(-size // grain) for size in saved]
    limit = room // grain
    # best[kept] = (seconds, blocks) recomputed so far, for each sum of kept sizes; taken[i][kept]: was i recomputed?
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    came: list[dict[int, tuple[int, bool]]] = []
    for size, cost in zip(sizes, seconds, strict=True):
        following: dict[int, tuple[float, int]] = {}
        how: dict[int, tuple[int, bool]] = {}
        for kept, (spent, count) in best.items():
            if kept + size > limit:  # its own activations must fit on top, kept or recomputed
                continue
            options = [(kept + size, (spent, count), False), (kept, (spent + cost, count + 1), True)]
            for after, value, again in options:
                if after not in following or value < following[after]:
                    following[after], how[after] = value, (kept, again)
        best = pareto(following)
        came.append(how)
    if not best:
        return None
    kept = min(best, key=lambda place: (best[place], place))
    chosen = []
    for index in reversed(range(len(sizes))):
        kept, again = came[index][kept]
        if again:
            chosen.append(index)
    return tuple(reversed(chosen))


def pareto(states: dict[int, tuple[float, int]]) -> dict[int, tuple[float, int]]:
    """Drop states that keep more and have spent no less than another: they can never do better."""
    left: dict[int, tuple[float, int]] = {}
    least: tuple[float, int] | None = None
    for kept in sorted(states):
        if least is None or states[kept] < least:
            left[kept] = least = states[kept]
    return left


def peak(saved: Sequence[int], recomputed: Sequence[int]) -> int:
    """The model's peak above everything else, in bytes, with these blocks recomputed."""
    gone, kept, high = set(recomputed), 0, 0
    for index, size in enumerate(saved):
        high = max(high, kept + size)
        kept += 0 if index in gone else size
    return high
