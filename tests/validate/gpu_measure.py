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

from runtime.run import deterministic
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
    and what our model of it says of the very same `requests`.
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
    streams: int


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
    recorded = {
        "recorded_allocated": torch.cuda.max_memory_allocated(),
        "recorded_reserved": torch.cuda.max_memory_reserved(),
        **of_recording(torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]),
    }
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


def of_recording(entries: list[dict[str, Any]]) -> dict[str, int]:
    """What our model of the allocator makes of a recording. Raises ValueError if the recording is not whole."""
    held = snapshot.peak_reserved(entries)
    if held != torch.cuda.max_memory_reserved():
        raise ValueError(f"the recording has {held} bytes reserved, CUDA {torch.cuda.max_memory_reserved()}")
    replayed = snapshot.replayed(entries)
    return {
        "replayed_allocated": replayed.peak_allocated,
        "replayed_reserved": replayed.peak_reserved,
        "requests": len(snapshot.requests(entries)),
        "streams": snapshot.streams(entries),
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
