"""How long a user waits for lorac's commands: `python -m tests.validate.bench [--out docs/bench.json]`.

Every command is a process of its own, all of them in turn, several rounds, so that a noisy machine slows them alike;
the ratio is to a Python that does nothing. A cold plan has an empty cache, a warm one finds what the first left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = 3
PLAN = ("-m", "lorac", "plan", "specs/cyberpunk.py", "--unlocked", "--card", "12GB", "--json")
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "lorac --help": ("-m", "lorac", "--help"),
    "lorac spec": ("-m", "lorac", "spec"),
    "lorac plan specs/cyberpunk.py, cold": PLAN,
    "lorac plan specs/cyberpunk.py, warm": PLAN,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as out:
            for name, command in COMMANDS.items():
                written = ("--out", out) if "plan" in command else ()
                seconds[name].append(taken([sys.executable, *command, *written], cache))
    nothing = statistics.median(seconds["python -c pass"])
    answer = {
        "command": "python -m tests.validate.bench",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "diffusers", "peft")},
        "rounds": ROUNDS,
        "commands": {
            name: {
                "least_seconds": round(min(times), 3),
                "median_seconds": round(statistics.median(times), 3),
                "ratio_to_python": round(statistics.median(times) / nothing, 1),
            }
            for name, times in seconds.items()
        },
    }
    text = json.dumps(answer, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def taken(command: list[str], cache: str) -> float:
    """Wall seconds of a command that must end well."""
    began = time.perf_counter()
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, "LORAC_CACHE": cache}, stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
