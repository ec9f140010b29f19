"""What splitting blocks among processes frees on a card, and what of them comes from the others.

The model is that of `runtime.sharding`: each process keeps its part of every block. To gather one takes a buffer that
it arrives in and the weights that are copied out of it, while the next one arrives in a buffer of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def kept(weights: Sequence[int], processes: int) -> int:
    """Bytes of the blocks' weights that a process keeps."""
    return sum(-(-size // processes) for size in weights)


def gathered(weights: Sequence[int]) -> int:
    """The most bytes that gathering takes: a block's weights, and the buffer of its own or of a neighbour."""
    pairs = (one + other for one, other in pairwise(weights))
    return max([*(2 * size for size in weights), *pairs], default=0)


def freed(weights: Sequence[int], processes: int) -> int:
    """Bytes of the card that are free with these blocks split; less than 0 where there are too few to gain by it."""
    return sum(weights) - kept(weights, processes) - gathered(weights)


def fetched(size: int, processes: int) -> int:
    """Bytes of a block that come from the other processes each time that it is gathered."""
    return size - size // processes
