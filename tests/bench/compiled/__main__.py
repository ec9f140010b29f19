"""Whether torch.compile pays back within a run: `python -m tests.bench.compiled --out docs/compile.json`.

The demo's step on the emoji base and the language demo's on SmolLM2, eager and compiled by inductor for this CPU:

- each block compiled by itself, as torch's regional compilation and diffusers' `compile_repeated_blocks` do, or the
  whole backbone as one graph;
- cold, with nothing in inductor's cache on disk, and warm, in another process with what the first one left there;
- steps of an eager and a compiled run in turn in one process, each with its own weights: CPU seconds, peaks of
  resident memory above what lay there before the step, losses;
- whether gradients are the same bytes in each process;
- what a block keeps for its backward pass, and what dropout does to its graph (`kept`).

Each way's figures are written when they are there, beside those that the file has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.safeio.atomic import write_text
from tests.bench.compiled import kept
from tests.bench.compiled.ways import Figures, Way, first, in_turn, switch
from tests.bench.figures import machine, versions
from tests.bench.profile.step import parts

ROOT = Path(__file__).parents[3]
STEPS = {
    Way(spec="quickstart", dtype="fp32", region="blocks"): 20,
    Way(spec="chat_quickstart", dtype="bf16", region="blocks"): 10,
    Way(spec="chat_quickstart", dtype="fp32", region="blocks"): 4,
    Way(spec="chat_quickstart", dtype="bf16", region="blocks", recomputed=2): 4,
    Way(spec="chat_quickstart", dtype="bf16", region="model"): 4,
}
KEPT = len(STEPS)
"""The number, among the ways', of what blocks keep."""
TWICE_COLD = {way for way in STEPS if way.spec == "chat_quickstart" and way.region == "blocks"}
"""Compiled anew in a second empty cache, too: whether what is compiled computes the same bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compiled", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="ways with these words in their names")
    parser.add_argument(
        "--one", type=int, help="this way's number, here and now, for as many steps as --steps"
    )
    parser.add_argument("--steps", type=int, default=0)
    options = parser.parse_args()
    ways = list(STEPS)
    if options.one == KEPT:
        found = {"blocks": kept.figures(), "dropout": [kept.broken(p) for p in (0.0, 0.1)]}
        write_text(options.out, json.dumps(found) + "\n")
        return
    if options.one is not None:
        write_text(options.out, json.dumps(one(ways[options.one], options.steps)) + "\n")
        return
    for number, way in enumerate(ways):
        if options.only in way.name:
            add(options.out, way.name, apart(number, way))
    if options.only in "kept":
        with tempfile.TemporaryDirectory(prefix="lorac-compiled-") as work:
            add(options.out, "kept", process(KEPT, Path(work) / "cache", 0, Path(work)))


def add(file: Path, name: str, found: Figures) -> None:
    """To what the file has; each with the machine's load then."""
    said = json.loads(file.read_text()) if file.exists() else {}
    said[name] = {"machine": machine(1), **found}
    said["versions"] = {**versions(("torch", "diffusers", "transformers")), "gcc": compiler()}
    write_text(file, json.dumps(said, indent=1) + "\n")


def apart(number: int, way: Way) -> Figures:
    """Of processes of their own: cold with steps in turn, warm, and cold once more."""
    with tempfile.TemporaryDirectory(prefix="lorac-compiled-") as work:
        cold = process(number, Path(work) / "cache", STEPS[way], Path(work))
        warm = process(number, Path(work) / "cache", 0, Path(work))
        found = {"cold": cold, "warm": warm}
        if way in TWICE_COLD:
            found["again"] = process(number, Path(work) / "another", 0, Path(work))
    return found


def process(number: int, cache: Path, steps: int, work: Path) -> Figures:
    """glibc gives back what is freed at once there (`runtime.heap`): peaks are then of what lives. One compiler works
    at a time, in a child that ends: its CPU seconds are counted."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    env |= {"MALLOC_MMAP_THRESHOLD_": str(2**20), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    env["TORCHDYNAMO_DISABLE"] = "0"  # `runtime.families` would have torch leave its compiler alone
    out = work / "found.json"
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.compiled", "--out", str(out)]
    subprocess.run([*command, "--one", str(number), "--steps", str(steps)], cwd=ROOT, env=env, check=True)
    found: Figures = json.loads(out.read_text())
    return found


def one(way: Way, steps: int) -> Figures:
    """The way's figures in this process."""
    with tempfile.TemporaryDirectory(prefix="lorac-compiled-") as work:
        made = parts(ROOT / "specs" / f"{way.spec}.py", 1, Path(work), dtype=way.dtype)
        ways = switch(made.trainee, way)
        found = {"step": made.name, **first(made, ways)}
        if steps:
            found |= in_turn(made, ways, steps)
    return found


def compiler() -> str:
    """What inductor compiles its C++ with."""
    said = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True)
    return said.stdout.strip()


if __name__ == "__main__":
    main()
