"""lorac against diffusers' own LoRA recipe on pictures: `python -m tests.bench.images`.

- The emoji base and the demo's pictures, with a held-out loss at each checkpoint: time to a given loss.
- SD 1.5's own models at full size with random weights, a few steps.

Of each, first the recipe's ways that could be its fastest run once, shortly; the fastest goes on. Then it and lorac, in
the same precision, run in turn, several rounds, each run a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from runtime.safeio.atomic import write_text
from tests.bench import plot
from tests.bench.images import bases, report
from tests.bench.images.setting import ROOT, Setting, Task, Way
from tests.bench.turns import apart, in_turn

WORK = ROOT / ".cache" / "bench" / "images"
EMOJI = ROOT / "specs" / "emoji"


def settings() -> dict[str, Setting]:
    """Each experiment by its word on the command line."""
    return {
        "emoji": Setting(
            title="The embedded emoji base, 64 px",
            base=str(EMOJI / "base"),
            train=str(EMOJI / "twemoji" / "train"),
            held_out=str(EMOJI / "twemoji" / "heldout"),
            resolution=64,
            steps=100,
            every=10,
            batch=8,
            learning_rate=1e-3,
        ),
        "sd15": Setting(
            title="SD 1.5 at full size, random weights, 256 px",
            base=str(WORK / "sd15"),
            train=str(WORK / "noise"),
            held_out="",
            resolution=256,
            steps=6,
            every=0,
            batch=1,
            learning_rate=1e-4,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.images", description=__doc__)
    parser.add_argument(
        "--out", type=Path, help="folder for bench_images.json, .md and .svg; without it the page is printed"
    )
    parser.add_argument("--only", default="emoji,sd15", help="experiments, with commas")
    parser.add_argument("--steps", type=int, help="instead of each experiment's own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    experiments = [
        experiment(setting, options.rounds, options.threads)
        for setting in wanted(options.only.split(","), options.steps)
    ]
    figures = report.figures(experiments, options.threads, " ".join(sys.argv[1:]))
    page = report.page(figures)
    if options.out:
        text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
        write_text(options.out / "bench_images.json", text)
        write_text(options.out / "bench_images.md", page)
        write_text(options.out / "bench_images.svg", plot.svg(report.panels(figures), report.TITLE))
    print(page)


def wanted(names: Sequence[str], steps: int | None) -> list[Setting]:
    """The experiments of these words, their bases made where they are missing."""
    chosen = [settings()[name] for name in names]
    if "sd15" in names:
        bases.sd15(WORK / "sd15", WORK / "noise")
    return [attrs.evolve(one, steps=steps or one.steps) for one in chosen]


def candidates(setting: Setting) -> list[Way]:
    """What the recipe's documentation offers for speed on a CPU, crossed: precision, and how a batch is cut."""
    parts = sorted({setting.batch, max(setting.batch // 2, 1)}, reverse=True)
    return [
        Way(trainer="diffusers", dtype=dtype, micro_batch=micro)
        for dtype in ("float32", "bfloat16")
        for micro in parts
    ]


def experiment(setting: Setting, rounds: int, threads: int) -> dict[str, Any]:
    """All that was measured of one."""
    short = attrs.evolve(setting, steps=min(setting.steps, 5), held_out="", every=0)
    tried = {way: run(Task(setting=short, way=way), threads) for way in candidates(setting)}
    done = {way: found for way, found in tried.items() if found}
    fastest = max(done, key=lambda way: float(done[way]["samples_per_second"]))
    ways = [fastest, Way(trainer="lorac", dtype=fastest.dtype, micro_batch=0)]
    runs = in_turn(ways, rounds, lambda way: run(Task(setting=setting, way=way), threads))
    return report.experiment(setting, ways, runs, list(done.values()))


def run(task: Task, threads: int) -> dict[str, Any] | None:
    """One run in its own process; None where it failed."""
    module = f"tests.bench.images.{task.way.trainer}_run"
    return apart(sys.executable, module, task.dumps(), WORK / "result.json", threads)


if __name__ == "__main__":
    main()
