"""Which blocks to leave in the computer's memory, what that frees on the card and how long the step waits for them.

The model is that of `runtime.offload`: the next offloaded block is fetched while the step computes from one offloaded
block to the next, so at most two neighbours are on the card, and the step waits only for what that does not hide. The
first one of the forward pass is waited for in full; the backward pass begins with the last one, which is still there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

BACKWARD = 1.0
"""A frozen block's backward in forwards, at least: the gradient of its input takes one product for each of the
forward's. What the adapter and attention add is left out, so that no wait is taken for hidden that is not."""


def spread(blocks: int, away: int) -> tuple[int, ...]:
    """`away` of `blocks` indices, evenly spread: so each has the most computing to be fetched behind."""
    return tuple(index * blocks // away for index in range(away))


def freed(weights: Sequence[int], away: Sequence[int]) -> int:
    """Bytes of the card that are free with these blocks away: all of theirs, but the largest two neighbours'."""
    sizes = [weights[index] for index in away]
    pairs = [one + other for one, other in pairwise(sizes)]
    return sum(sizes) - max(pairs, default=sum(sizes))


PARTS = 4


def choices(blocks: int) -> list[tuple[int, ...]]:
    """Sets of blocks worth a look: a quarter of them, a half, three quarters, all.

    They do not depend on the card: so more memory can only add to what fits, and never makes a plan slower.
    """
    counts = dict.fromkeys(-(-blocks * part // PARTS) for part in range(1, PARTS + 1))
    return [spread(blocks, count) for count in counts if count]


def waiting(
    weights: Sequence[int],
    seconds: Sequence[float],
    away: Sequence[int],
    recomputed: Collection[int],
    link: float,
) -> float:
    """Seconds that a forward and a backward wait for blocks, at `link` bytes a second.

    `weights` and `seconds` (of a forward) are of every block, in the order of the forward pass.
    """
    if not away:
        return 0.0
    total = weights[away[0]] / link
    for before, here in pairwise(away):
        between = range(before, here)
        total += max(0.0, weights[here] / link - sum(seconds[index] for index in between))
        back = sum(
            seconds[index] * (BACKWARD + (1.0 if index in recomputed else 0.0))
            for index in range(before + 1, here + 1)
        )
        total += max(0.0, weights[before] / link - back)
    return total
