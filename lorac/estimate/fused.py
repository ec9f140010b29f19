"""What compiling the blocks of a step takes and saves (`runtime.compiled`), by what `lorac calibrate` measured here.

Compiled, a block's products and its attention are the libraries' own, as before; what lies between them becomes few
loops. What that saves is in proportion to the seconds of what lies there, as in some of SmolLM2's blocks. Compiling
takes as long as it did for one of those, by the calls in a graph; blocks that make the same calls are one graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from lorac.estimate import roofline
from lorac.estimate.cards import Card
from lorac.estimate.host import MIB
from lorac.estimate.record import Call

RESIDENT = 300 * MIB
"""What torch's compiler takes of main memory: of a tiny Llama's run 154 MiB in the process (VmHWM 902 eager, 1056
compiled), and with g++ beside it 262 in all (torch 2.14.1, g++ 12.2.0, one thread; docs/LOG.md)."""

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
    again, between_them = set(recomputed), 0.0
    graphs = set[tuple[Call, ...]]()
    for name, made in calls.items():
        graphs.add(tuple(attrs.evolve(call, module="") for call in made))
        for call in between(made):
            times = 2 if name in again and call.during == "forward" else 1
            between_them += times * roofline.of_call(call, card, rows)
    return Gain(
        takes=measured.start + measured.call * sum(map(len, graphs)),
        saves=between_them * measured.saved,
    )


def between(calls: Iterable[Call]) -> Iterable[Call]:
    """Those that are neither products nor attention."""
    return (call for call in calls if not call.flops)
