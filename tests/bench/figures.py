"""What benchmarks say of their runs: spreads and ratios, and what they ran on."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def spreads(runs: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Least, median and most of each figure; none where there is no run."""
    return {
        name: {
            "min": min(run[name] for run in runs),
            "median": statistics.median(run[name] for run in runs),
            "max": max(run[name] for run in runs),
        }
        for name in names
        if runs
    }


def ratio(mine: Mapping[str, Any], other: Mapping[str, Any], name: str) -> float:
    """Of medians."""
    return float(mine[name]["median"]) / float(other[name]["median"])


def machine(threads: int) -> dict[str, Any]:
    """The load is that of the last minute: what else ran, it shared its cores with."""
    load = round(os.getloadavg()[0], 1)
    return {"processor": processor(), "cores": os.cpu_count(), "threads": threads, "load": load}


def processor() -> str:
    """As the machine calls it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's and those of packages; "none" of one that is not installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
