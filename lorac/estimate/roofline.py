"""Seconds from operators: each takes as long as its arithmetic or its traffic, whichever is slower, or its
launch.

After Williams, Waterman & Patterson, "Roofline" (CACM 2009). What a library reaches of a card's sheet figures
is given by `REACHED`; `lorac calibrate` measures a machine's own figures, which are already what it reaches.
"""

from __future__ import annotations

from collections.abc import Iterable

from lorac.estimate.cards import Card
from lorac.estimate.record import Call

REACHED = {"flops": 0.6, "bytes": 0.8}
"""Shares of a card's sheet figures: large matrix products reach 60-70 % of a GeForce's tensor rate and 70-80
% of an A100's; element-wise kernels 80-90 % of the bandwidth (NVIDIA, "Matrix Multiplication Background
User's Guide")."""


def seconds(calls: Iterable[Call], card: Card, times: int = 1) -> float:
    """How long these calls take one after the other, with `times` the arithmetic and traffic in each."""
    return sum(of_call(call, card, times) for call in calls)


def of_call(call: Call, card: Card, times: int = 1) -> float:
    share = REACHED if card.device == "cuda" else {"flops": 1.0, "bytes": 1.0}
    arithmetic = call.flops * times / (card.rate(call.dtype) * share["flops"])
    traffic = call.bytes * times / (card.bandwidth * share["bytes"])
    return max(arithmetic, traffic, card.launch)
