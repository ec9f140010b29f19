"""Seconds from operators: each takes as long as its arithmetic or its traffic, whichever is slower, or its
launch; on a machine that was calibrated, as long as such calls were measured to take.

- After Williams, Waterman & Patterson, "Roofline" (CACM 2009). What a library reaches of a card's sheet figures
  is given by `REACHED`.
- `lorac calibrate` measures what is really reached (`Measured`). An operator that computes follows its line
  (start, FLOPs, bytes), one that only moves memory its curve over bytes. An operator that was not measured is
  taken for the nearest one that was: matrix products for `mm`, all else for `add`.
- A CPU starts a call when the last one is done, so launches add up; a GPU starts it meanwhile.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar

from lorac.estimate.cards import Card, Curve, Line, Measured, Probe, Work
from lorac.estimate.record import Call

Kind = TypeVar("Kind", Line, Curve)

REACHED = {"flops": 0.6, "bytes": 0.8}
"""Shares of a card's sheet figures: large matrix products reach 60-70 % of a GeForce's tensor rate and 70-80
% of an A100's; element-wise kernels 80-90 % of the bandwidth (NVIDIA, "Matrix Multiplication Background
User's Guide")."""

CLOSE = 0.1
"""Square of the distance, in logarithms, below which probes count alike: sizes that are a third apart."""

LOOP = "_foreach_"
"""How the names of operators on lists begin; one in place ("_foreach_add_") is recorded for each tensor."""


def seconds(calls: Iterable[Call], card: Card, times: int = 1) -> float:
    """How long these calls take one after the other, with `times` the arithmetic and traffic in each."""
    return sum(of_call(call, card, times) for call in calls)


def of_call(call: Call, card: Card, times: int = 1) -> float:
    if card.measured is not None:
        return _as_measured(call, card, card.measured, times)
    if call.operator.startswith(LOOP) and call.operator.endswith("_"):
        return 0.0  # the guess was made when these, and attention's products on a CPU, were not counted
    share = REACHED if card.device == "cuda" else {"flops": 1.0, "bytes": 1.0}
    flops = 0 if "_for_cpu" in call.operator else call.flops
    arithmetic = flops * times / (card.rate(call.dtype) * share["flops"])
    traffic = call.bytes * times / (card.bandwidth * share["bytes"])
    return max(arithmetic, traffic, card.launch)


def _as_measured(call: Call, card: Card, measured: Measured, times: int) -> float:
    launch = measured.launch.get(call.during, card.launch)
    work = _work(call, measured, times)
    return max(work, launch) if card.device == "cuda" else measured.together * work + launch


def _work(call: Call, measured: Measured, times: int) -> float:
    operator = call.operator.removeprefix(LOOP).rstrip("_")
    if call.flops:
        lines = measured.computing.get(operator) or measured.computing["mm"]
        flops, size, rows, cells = (
            call.flops * times,
            call.bytes * times,
            call.rows * times,
            call.cells * times,
        )
        whole = Probe(flops, size, rows, cells, 0.0)
        return near(_of_dtype(lines, call.dtype), whole)
    curves = measured.moving.get(operator) or measured.moving["add"]
    return on_curve(_of_dtype(curves, call.dtype), call.bytes * times)


@lru_cache(maxsize=4096)
def near(line: Line, work: Work) -> float:
    """Seconds on the line, times how far off it the probes are that come near in size: a mean of the logarithms by
    inverse distance (Shepard 1968)."""
    here, total, weights = _place(work), 0.0, 0.0
    for probe in line.probes:
        distance = sum((a - b) ** 2 for a, b in zip(here, _place(probe), strict=True))
        weight = 1 / (distance + CLOSE) ** 2
        total += weight * math.log(probe.seconds / line.at(probe))
        weights += weight
    return line.at(work) * (math.exp(total / weights) if weights else 1.0)


def _place(work: Work) -> tuple[float, ...]:
    return tuple(math.log1p(part) for part in (work.flops, work.bytes, work.rows, work.cells))


def on_curve(curve: Curve, size: int) -> float:
    """Seconds at `size` bytes: straight between measured points on logarithmic scales, constant before the first,
    in proportion after the last."""
    right = bisect_right(curve.bytes, size)
    if right == 0:
        return curve.seconds[0]
    if right == len(curve.bytes):
        return curve.seconds[-1] * size / curve.bytes[-1]
    share = math.log(size / curve.bytes[right - 1]) / math.log(curve.bytes[right] / curve.bytes[right - 1])
    low, high = curve.seconds[right - 1], curve.seconds[right]
    return low * (high / low) ** share


def _of_dtype(kinds: dict[str, Kind], dtype: str) -> Kind:
    return kinds.get(dtype) or kinds["float32"]
