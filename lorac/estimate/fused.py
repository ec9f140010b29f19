"""What compiling the blocks of a step takes and saves (`runtime.compiled`), by what `lorac calibrate` measured here.

Compiled, a block's products and its attention are the libraries' own, as before; what lies between them becomes few
loops. So a share of the seconds of what is neither is left, the share that was left of a block of SmolLM2's. Compiling
takes as long as it did for that one, by the calls in a graph; blocks that make the same calls are one graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from lorac.estimate import roofline
from lorac.estimate.cards import Card
from lorac.estimate.host import MIB
from lorac.estimate.record import Call

RESIDENT = 0 * MIB
KIND = "torch's compiler"
"""What it is called among the kinds of memory."""


@attrs.frozen(kw_only=True)
class Gain:
    """Seconds that compiling takes, once, and that it saves in each full micro-batch."""

    takes: float
    saves: float


def gain(calls: Mapping[str, Iterable[Call]], recomputed: Iterable[str], rows: int, card: Card) -> Gain:
    """Of blocks compiled on `card`: their `calls` are of one sample, without recomputation; `rows` come at a time."""
    measured = card.measured and card.measured.compiling
    if not measured:
        return Gain(takes=0.0, saves=0.0)
    again, saved = set(recomputed), 0.0
    graphs = set[tuple[Call, ...]]()
    for name, made in calls.items():
        graphs.add(tuple(attrs.evolve(call, module="") for call in made))
        for call in between(made):
            times = 2 if name in again and call.during == "forward" else 1
            saved += times * roofline.of_call(call, card, rows)
    return Gain(
        takes=measured.start + measured.call * sum(map(len, graphs)),
        saves=saved * (1 - measured.left),
    )


def between(calls: Iterable[Call]) -> Iterable[Call]:
    """Those that are neither products nor attention."""
    return (call for call in calls if not call.flops)
