"""Runs of several trainers in turn, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

ROOT = Path(__file__).parents[2]

Figures = dict[str, Any]


class Named(Protocol):
    @property
    def name(self) -> str: ...


Way = TypeVar("Way", bound=Named)


def in_turn(
    ways: Sequence[Way], rounds: int, run: Callable[[Way], Figures | None]
) -> dict[str, list[Figures]]:
    """Each way's runs by its name: one of each way a round, so that what changes on the machine meets all alike."""
    runs: dict[str, list[Figures]] = {way.name: [] for way in ways}
    for at in range(rounds):
        for way in ways:
            print(f"round {at + 1} of {rounds}: {way.name}", file=sys.stderr, flush=True)
            found = run(way)
            if found is not None:
                runs[way.name].append(found)
    return runs


def apart(python: Path | str, module: str, task: str, out: Path, threads: int) -> Figures | None:
    """`python -m module TASK OUT`: what it wrote to `out`; None where it failed, whose words go to stderr."""
    out.unlink(missing_ok=True)
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [python, "-W", "ignore", "-m", module, task, out]
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if ran.returncode:
        print(f"{module} {task} failed:\n{ran.stderr[-2000:]}", file=sys.stderr, flush=True)
        return None
    found: Figures = json.loads(out.read_text())
    return found
