"""A published measurement and our prediction of it."""

from __future__ import annotations

from typing import Literal

import attrs

from lorac.estimate.allocator import replay
from lorac.estimate.record import Trace

Metric = Literal["allocated", "reserved"]


@attrs.frozen(kw_only=True)
class Published:
    """What a publisher measured: `bytes` by `metric`, on `gpu`, and where it says so."""

    name: str
    source: str
    gpu: str
    capability: tuple[int, int]
    metric: Metric
    bytes: int
    precision: int
    """Bytes that the publisher's last digit stands for."""


@attrs.frozen(kw_only=True)
class Result:
    """The prediction beside it. `error` is predicted / published - 1."""

    name: str
    source: str
    gpu: str
    metric: Metric
    published: int
    predicted: int
    live: int
    reserved: int
    error: float
    seconds: float


def judge(published: Published, trace: Trace, seconds: float) -> Result:
    """Replay the trace through the allocator and take the figure that the publisher took."""
    replayed = replay(trace.requests())
    predicted = replayed.peak_allocated if published.metric == "allocated" else replayed.peak_reserved
    return Result(
        name=published.name,
        source=published.source,
        gpu=published.gpu,
        metric=published.metric,
        published=published.bytes,
        predicted=predicted,
        live=trace.peak.bytes,
        reserved=replayed.peak_reserved,
        error=predicted / published.bytes - 1,
        seconds=seconds,
    )
