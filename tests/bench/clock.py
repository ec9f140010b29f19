"""When a run's steps end, and the memory then: taken down alike of every trainer."""

from __future__ import annotations

import time
from pathlib import Path

import attrs
import psutil


@attrs.define
class Clock:
    """Times are seconds of the epoch, `cpu` seconds of all threads at each step's end; memory is resident bytes.

    `peak_before` is the most before the first step, `loaded` what was held then, `step_peak` the most since.
    """

    began: float = attrs.field(factory=lambda: psutil.Process().create_time())
    first_step: float = 0.0
    ends: list[float] = attrs.field(factory=list)
    cpu: list[float] = attrs.field(factory=list)
    losses: list[float] = attrs.field(factory=list)
    peak_before: int = 0
    loaded: int = 0
    step_peak: int = 0

    def step_begins(self) -> None:
        if not self.first_step:
            self.first_step = time.time()
            self.peak_before, self.loaded = memory("VmHWM"), memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here (proc(5))

    def step_ends(self) -> None:
        self.ends.append(time.time())
        self.cpu.append(time.process_time())

    def training_ends(self) -> None:
        self.step_peak = memory("VmHWM")

    @property
    def start_seconds(self) -> float:
        """From the process's start to its first step."""
        return self.first_step - self.began

    @property
    def peak(self) -> int:
        return max(self.peak_before, self.step_peak)

    def seconds(self, warm_up: int) -> float:
        """Of the steps after the first `warm_up`."""
        return self.ends[-1] - self.ends[warm_up - 1]

    def cpu_seconds(self, warm_up: int) -> float:
        return self.cpu[-1] - self.cpu[warm_up - 1]

    def last_loss(self) -> float:
        """The mean over the last quarter of the steps."""
        last = self.losses[-max(len(self.losses) // 4, 1) :]
        return sum(last) / len(last)


def memory(field: str, process: int | str = "self") -> int:
    """Bytes of a line of /proc/PID/status: VmRSS, or VmHWM, its peak. Raises OSError where it has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(process)  # one that has ended, but was not waited for, has no memory
