"""One case on the GPU, in a process of its own: `python -m tests.validate.gpu_measure CASE USED` (both as JSON).

Prints a `Measured` as JSON in its last line, or null where memory ran out. USED is how many bytes of the card were
taken before this process began: what is taken more at its end is its allocator's, its context's and its libraries'.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import warnings
from typing import Any

import attrs
import torch

from runtime.exactness import deterministic
from tests.validate import snapshot
from tests.validate.gpu_case import FULL, Case, Shapes, Step, program, real_step

WARM_UP = 3
"""Steps before the clock: the optimizer's state, cuDNN's plans and the allocator's segments come in the first two."""
TIMED = 10


@attrs.frozen(kw_only=True)
class Measured:
    """Bytes at the peak of making the modules and taking the steps, and the median seconds of a step.

    `allocated` is `max_memory_allocated`, `reserved` `max_memory_reserved`, `total` what the card lost to the process.
    The rest is over the recorded part, the modules and the first steps: what the allocator had in tensors and held,
    and what our model of it says of the very same requests, where it can be held to them (`is_comparable`: the
    recording's segments add up to what CUDA says was held, and all requests came from one stream).
    """

    allocated: int
    reserved: int
    total: int
    seconds: float
    recorded_allocated: int
    recorded_reserved: int
    replayed_allocated: int
    replayed_reserved: int
    requests: int
    is_comparable: bool


def measure(case: Case, used: int, shapes: Shapes = FULL) -> Measured:
    """Take the case's steps on the GPU. Raises torch.OutOfMemoryError."""
    if case.model == "sd1":  # as the runtime runs it; a stranger's step runs as torch does by default
        deterministic(program(case, shapes["sd1"]).compute)
    torch.cuda.init()
    torch.cuda.memory._record_memory_history(context=None)  # without stacks: some µs an action
    step = real_step(case, "cuda", shapes)
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    entries = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    recorded = of_recording(entries, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    torch.cuda.memory._record_memory_history(enabled=None)
    seconds = statistics.median(timed(step))
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    return Measured(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=reserved,
        total=total - free - used + reserved - torch.cuda.memory_reserved(),
        seconds=seconds,
        **recorded,
    )


def of_recording(entries: list[dict[str, Any]], allocated: int, reserved: int) -> dict[str, Any]:
    """The part of `Measured` that is over a recording, at whose end CUDA says these peaks of bytes."""
    replayed = snapshot.replayed(entries)
    return {
        "recorded_allocated": allocated,
        "recorded_reserved": reserved,
        "replayed_allocated": replayed.peak_allocated,
        "replayed_reserved": replayed.peak_reserved,
        "requests": len(snapshot.requests(entries)),
        "is_comparable": snapshot.peak_reserved(entries) == reserved and snapshot.streams(entries) == 1,
    }


def timed(step: Step) -> list[float]:
    """Seconds of each of some steps, by the card's own clock."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(marks)]


def main() -> None:
    warnings.filterwarnings("ignore")
    case, used = Case(**json.loads(sys.argv[1])), int(sys.argv[2])
    try:
        print(json.dumps(attrs.asdict(measure(case, used))))
    except torch.OutOfMemoryError:
        print("null")


if __name__ == "__main__":
    main()
