"""A step's seconds by part, by kind of work, and the least that this machine would take for the same work.

- Parts (reading, gradients, update) are timed whole, without a profiler: medians of several steps.
- Kinds come of torch's profiler over the gradients: the self time of each operator, as a share of the profiled step's
  operators. What the step takes beyond its operators is Python's and torch's own way to them.
- The limit of a kind is the sum over its calls of the longer of FLOPs by the rate of a large matrix product and bytes
  by the bandwidth, both measured by `lorac calibrate` on the same threads.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import attrs
from torch.profiler import ProfilerActivity, profile

from lorac.estimate.cards import Calibration
from lorac.estimate.owners import Owners
from lorac.estimate.record import Call
from lorac.estimate.recorder import Recorder
from tests.bench.profile.kinds import kind
from tests.bench.profile.step import Parts

WARM_UP = 2
PYTHON = "Python and dispatch"


@attrs.frozen(kw_only=True)
class Measured:
    """Seconds of a step: `parts` and `kinds` (of its gradients) as measured, `limits` by kind, counts of calls."""

    name: str
    seconds: float
    parts: dict[str, float]
    kinds: dict[str, float]
    limits: dict[str, float]
    calls: dict[str, int]
    operators: dict[str, float]

    @property
    def share(self) -> float:
        """Of the machine's limit, the whole step: 1 is all that it can do."""
        return sum(self.limits.values()) / self.seconds


def measured(of: Parts, machine: Calibration, steps: int) -> Measured:
    """Profile `steps` steps after a warm-up."""
    number = 0

    def timed(part: Callable[[], object]) -> float:
        began = time.perf_counter()
        part()
        return time.perf_counter() - began

    found: dict[str, list[float]] = {"reading": [], "gradients": [], "update": []}
    for number in range(WARM_UP + steps):
        batches, total = of.read(number)
        times = {
            "reading": timed(lambda at=number: of.read(at)),  # type: ignore[misc]
            "gradients": timed(lambda b=batches, t=total: of.learn(b, t)),  # type: ignore[misc]
            "update": timed(of.move),
        }
        if number >= WARM_UP:
            for name, seconds in times.items():
                found[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    operators = profiled(of, number + 1, steps)
    kinds: dict[str, float] = defaultdict(float)
    for name, seconds in operators.items():
        kinds[kind(name)] += seconds
    calls = recorded(of, number + 1 + steps)
    limits: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for call in calls:
        limits[kind(call.operator)] += limit(call, machine)
        counts[kind(call.operator)] += 1
    return Measured(
        name=of.name,
        seconds=sum(medians.values()),
        parts=medians,
        kinds={**kinds, PYTHON: max(0.0, medians["gradients"] - sum(kinds.values()))},
        limits=dict(limits),
        calls=dict(counts),
        operators=dict(sorted(operators.items(), key=lambda pair: -pair[1])[:20]),
    )


def profiled(of: Parts, first: int, steps: int) -> dict[str, float]:
    """Seconds of each operator's own in one step's gradients."""
    given = [of.read(first + at) for at in range(steps)]
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for batches, total in given:
            of.learn(batches, total)
            of.move()
    own = {
        event.key: event.self_cpu_time_total / 1e6 / steps
        for event in seen.key_averages()
        if event.key.startswith("aten::")
    }
    return own


def recorded(of: Parts, number: int) -> list[Call]:
    """The calls of one step that move memory."""
    recorder = Recorder(Owners())
    with recorder:
        of.whole(number)
    return recorder.calls


def limit(call: Call, machine: Calibration) -> float:
    """Seconds that the call takes at least: by its arithmetic or by its traffic."""
    rate = machine.fp32 if call.dtype == "float32" else machine.bf16 or machine.fp32
    return max(call.flops / rate, call.bytes / machine.bandwidth)
