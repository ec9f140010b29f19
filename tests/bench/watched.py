"""`lorac run`, as a user would start it, watched from outside.

A step's end is when its line of metrics.jsonl arrives; memory and time are those of the process that trains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.bench.clock import Clock, memory

ROOT = Path(__file__).parents[2]
EVERY = 0.02
"""Seconds between looks at the run."""


def lorac_run(folder: Path) -> Clock:
    """`lorac run spec.py` in `folder`, to its end, nothing cached. Raises RuntimeError with its words if it fails."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LORAC_CACHE": str(folder / "cache")}
    with (folder / "said.txt").open("w+") as said:
        command = [sys.executable, "-m", "lorac", "run", "spec.py"]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT)
        of = psutil.Process(process.pid)
        clock = Clock(began=of.create_time())
        while process.poll() is None:
            look(clock, of, folder)
            time.sleep(EVERY)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read()[-3000:])
    return clock


def look(clock: Clock, of: psutil.Process, folder: Path) -> None:
    """Take down each step that ended since the last look, and the peak of memory so far."""
    metrics = next(folder.glob("**/metrics.jsonl"), None)
    if metrics is None:
        return
    lines = metrics.read_text().split("\n")[:-1]
    steps = [step for step in map(json.loads, lines) if "loss" in step]
    if len(steps) == len(clock.ends):
        return
    try:
        now, times, peak = time.time(), of.cpu_times(), memory("VmHWM", of.pid)
    except (psutil.Error, OSError):
        return  # it just ended; the last steps were seen before its export
    for step in steps[len(clock.ends) :]:
        if not clock.ends:
            clock.first_step = now - step["seconds"]
        clock.ends.append(now)
        clock.cpu.append(times.user + times.system)
        clock.losses.append(step["loss"])
    clock.step_peak = peak
