"""lorac against peft's, TRL's and LitGPT's trainers, SmolLM2 on the Jargon File: `python -m tests.bench.language`.

- First each peer's ways that could be its fastest run once, shortly; the fastest of each kind goes on.
- Then those and lorac run in turn, several rounds, each run a process of its own.
- Speed is compared within a kind: rows (a step is 8 rows) or packed (a step is sequences filled with rows), with
  products in float32 or in bf16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs

from runtime.families import causal_lm
from runtime.safeio.atomic import making_folder, write_text
from tests.bench.language import chart, peers, report
from tests.bench.language.setting import HELD_OUT, ROOT, Setting, Task, Way, shuffled_rows, write_rows
from tests.bench.turns import apart, in_turn

WORK = ROOT / ".cache" / "bench" / "language"
GGUF = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
KEPT = WORK / "runs.jsonl"
CHARACTERS_PER_TOKEN = 4.0
"""Of the jargon rows under SmolLM2's tokenizer, rounded up: how many rows fill the packed sequences."""

CANDIDATES = [
    *(
        Way(trainer=trainer, batches=batches, dtype=dtype, micro_batch=micro)
        for trainer in ("peft", "trl")
        for batches in ("grouped", "flattened")
        for dtype, micro in (
            ("bfloat16", 8),
            ("bfloat16", 4),
            ("bfloat16", 2),
            ("autocast", 8),
            ("float32", 8),
        )
    ),
    *(
        Way(trainer="trl", batches="packed", dtype=dtype, micro_batch=micro)
        for dtype, micro in (("bfloat16", 2), ("bfloat16", 1), ("autocast", 2), ("float32", 2))
    ),
    *(
        Way(trainer="litgpt", batches="padded", dtype=dtype, micro_batch=micro)
        for dtype, micro in (
            ("bfloat16", 8),
            ("bfloat16", 4),
            ("bfloat16", 2),
            ("bfloat16", 1),
            ("autocast", 4),
            ("float32", 8),
            ("float32", 4),
            ("float32", 2),
            ("float32", 1),
        )
    ),
]
"""What each peer's documentation offers for speed on a CPU. Padding in the file's order is left out where there is
grouping by length, the same with less padding: LitGPT has none, nor packing. Small micro-batches of the slower
precisions are left out, but for LitGPT, whose padding they save."""

OURS = [
    *(
        Way(trainer="lorac", batches=batches, dtype=dtype, micro_batch=0)
        for batches in ("padded", "packed")
        for dtype in ("bfloat16", "float32")
    ),
    Way(trainer="lorac", batches="padded", dtype="bfloat16", micro_batch=4),
    Way(trainer="lorac", batches="padded", dtype="bfloat16", micro_batch=2),
]
"""The precision is given, to compare the same; the rest lorac's planner chooses for itself, and that is what the ratios
are of. The last two show what smaller micro-batches would have been."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.language", description=__doc__)
    parser.add_argument(
        "--out", type=Path, help="folder for bench_language.json, .md and .svg; without it they are printed"
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny random model, one round: does it all work?"
    )
    parser.add_argument("--only", default="", help="only trainers of these names, with commas")
    parser.add_argument("--ways", type=Path, help="ways found before (JSON), instead of looking for them")
    parser.add_argument(
        "--go-on", action="store_true", help="take the runs that a bench made that was stopped"
    )
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    setting = prepare_tiny() if options.quick else prepare(options.steps)
    only = set(filter(None, options.only.split(",")))
    unknown = {"litgpt"} if options.quick else set()  # it has no configuration of the tiny model

    def wanted(ways: Iterable[Way]) -> list[Way]:
        return [way for way in ways if way.trainer not in unknown and (not only or way.trainer in only)]

    if options.ways:
        chosen = cattrs.structure(json.loads(options.ways.read_text()), list[Way])
        tried: list[dict[str, Any]] = []
    else:
        candidates = wanted(CANDIDATES)[:: 4 if options.quick else 1]
        chosen, tried = fastest(candidates, setting, options.threads)
        write_text(WORK / "ways.json", json.dumps(cattrs.unstructure(chosen), indent=2))
    ways = sorted([*chosen, *wanted(OURS)], key=lambda way: (way.is_packed, way.kind))
    kept = kept_runs() if options.go_on else {}
    KEPT.unlink(missing_ok=True)

    def again(way: Way) -> dict[str, Any] | None:
        before = kept.get(way.name)
        found = before.pop(0) if before else run(Task(setting=setting, way=way), options.threads)
        if found is not None:
            with KEPT.open("a") as lines:
                lines.write(json.dumps(found) + "\n")
        return found

    runs = in_turn(ways, rounds, again)
    figures = report.figures(setting, ways, runs, tried, options.threads, " ".join(sys.argv[1:]))
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    if options.out:
        write_text(options.out / "bench_language.json", text)
        write_text(options.out / "bench_language.md", report.page(figures))
        chart.main(options.out / "bench_language.json")
    print(report.page(figures))


def kept_runs() -> dict[str, list[dict[str, Any]]]:
    """The runs of the last bench, by their ways' names."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in KEPT.read_text().splitlines() if KEPT.exists() else ():
        found = json.loads(line)
        runs.setdefault(found["name"], []).append(found)
    return runs


def prepare(steps: int) -> Setting:
    """The model as a Transformers folder, made where it is missing, and the rows."""
    subprocess.run([sys.executable, ROOT / "specs" / "smollm2" / "get_base.py"], check=True)
    model = WORK / "smollm2"
    if not model.exists():
        base = "tests.bench.language.base"
        subprocess.run([interpreter("peft"), "-m", base, GGUF, model], cwd=ROOT, check=True)
    return attrs.evolve(with_rows(model, steps), converted=str(converted(model)))


def converted(model: Path) -> Path:
    """The model by LitGPT's own converter, which writes beside the Transformers files that it reads."""
    folder = WORK / "litgpt" / "SmolLM2-135M-Instruct"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with making_folder(folder) as making:
            shutil.copytree(model, making, dirs_exist_ok=True)
            command = ["-m", "litgpt", "convert_to_litgpt", making, "--model_name", folder.name]
            subprocess.run([interpreter("litgpt"), *command], check=True)
    return folder


def prepare_tiny() -> Setting:
    """The same rows for a random model of some kB, whose tokens are bytes."""
    model = WORK / "tiny"
    return attrs.evolve(with_rows(causal_lm.tiny(model), steps=4), held_out_rows=4)


def with_rows(model: Path, steps: int) -> Setting:
    """The setting for a model, its rows written to files."""
    WORK.mkdir(parents=True, exist_ok=True)
    rows = shuffled_rows()
    at = round(len(rows) * HELD_OUT)
    held_out, train = rows[:at], rows[at:]
    made = Setting(
        model=str(model),
        train=str(WORK / "train.jsonl"),
        train_packed=str(WORK / "train_packed.jsonl"),
        held_out=str(write_rows(WORK / "held_out.jsonl", held_out)),
        steps=steps,
    )
    write_rows(Path(made.train), train[: steps * made.batch])
    write_rows(Path(made.train_packed), filling(train, steps * made.packed_batch * made.length))
    return made


def filling(rows: Sequence[dict[str, Any]], tokens: int) -> list[dict[str, Any]]:
    """The first rows that have at least so many tokens."""
    taken: list[dict[str, Any]] = []
    characters = 0
    for row in rows:
        if characters >= tokens * CHARACTERS_PER_TOKEN:
            break
        taken.append(row)
        characters += len(row["instruction"]) + len(row["output"])
    return taken


def fastest(
    candidates: Sequence[Way], setting: Setting, threads: int
) -> tuple[list[Way], list[dict[str, Any]]]:
    """Of each trainer and kind the way with most trained tokens a second in a few steps, and all that were tried."""
    short = attrs.evolve(setting, steps=min(setting.steps, 4), held_out_rows=1)
    speed = report.speed_of(threads)
    tried: list[dict[str, Any]] = []
    best: dict[tuple[str, str], tuple[float, Way]] = {}
    for way in candidates:
        found = run(Task(setting=short, way=way), threads)
        if found is None:
            tried.append({"name": way.name, "failed": True})
            continue
        tried.append({name: found[name] for name in ("name", speed, "trained_per_cpu_second", "peak_bytes")})
        print(f"tried {way.name}: {found[speed]:.1f} trained/s", file=sys.stderr, flush=True)
        key = (way.trainer, way.kind)
        if key not in best or found[speed] > best[key][0]:
            best[key] = (found[speed], way)
    return [way for _, way in best.values()], tried


def run(task: Task, threads: int) -> dict[str, Any] | None:
    """One run in its own process; None where it failed."""
    runner = interpreter(task.way.trainer)
    module = f"tests.bench.language.{task.way.trainer}_run"
    return apart(runner, module, task.dumps(), WORK / "result.json", threads)


def interpreter(trainer: str) -> Path:
    """The Python that a trainer runs on."""
    if trainer == "lorac":
        return Path(sys.executable)
    if trainer == "litgpt":
        return peers.python(ROOT / ".cache" / "litgpt", peers.LITGPT_ALONE)
    return peers.python(ROOT / ".cache" / "peers", peers.PEERS, ROOT / "constraints.txt")


if __name__ == "__main__":
    main()
