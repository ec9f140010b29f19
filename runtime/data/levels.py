"""At which noise and which times a held-out picture is measured: the same at each checkpoint, in each run.

- A loss at random times says more of the times than of the weights. Each picture is measured at `LEVELS` times that lie
  evenly in the distribution that training draws from, with noise of its own; nothing is drawn anew between checkpoints.
- Whatever the family, its own `draw` gives them: of many fixed keys, those are kept whose times are spread evenly.
- A key is a function of the picture's content, so neither the training's seed nor the other pictures matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime import plan
from runtime.data import draws
from runtime.families.protocol import Batch

LEVELS = 8
"""Times at which each picture is measured."""
DRAWS = 8
"""Keys that are looked at for each of them."""


def keys(item: plan.Item, drawn: Callable[[int], Batch]) -> tuple[int, ...]:
    """The keys of a picture's measurements, by rising time; `drawn` is what the family draws for it from a key."""
    numbers = np.arange(LEVELS * DRAWS, dtype=np.uint64)
    luck = draws.mix(draws.HELD_OUT, int(item.sha256[:16], 16), numbers)
    times = [time(drawn(int(key))) for key in luck]
    return tuple(int(luck[at]) for at in spread(times, LEVELS))


def spread(times: Sequence[float], count: int) -> list[int]:
    """Where `count` of these times are that lie evenly among them: the middle one of each equal part, rising."""
    rising = sorted(range(len(times)), key=lambda at: (times[at], at))
    part = len(times) // count
    return [rising[level * part + part // 2] for level in range(count)]


def time(drawn: Batch) -> float:
    """A draw's time: its only scalar (`Family.draw`)."""
    (found,) = (tensor for tensor in drawn.values() if tensor.dim() == 0)
    return float(found)
