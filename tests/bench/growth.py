"""How cost grows with the data: `python -m tests.bench.growth --rows 100,10000,1000000 --out docs/growth.json`.

For each count of pictures (64 × 64, all different) and of rows (JSON lines) a tiny random base is planned for:
- plan: all of `lorac plan`, nothing remembered; kept: asked the very same once more; again: with what the first
  left (digests, sizes, tokens, traces), but not the plan itself
- check: what `lorac run` does before it starts: the plan read, every file hashed
- steps: the plan read, the order of an epoch and 100 steps' samples out of it

Each is a process of its own. Seconds are this machine's, whatever else it did; `per_item` is what each further item
cost between two counts, in seconds of the processor and bytes of the peak (VmHWM): the same figure twice is linear.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tests.bench.clock import memory

ROOT = Path(__file__).parents[2]
COUNTS = {"pictures": "100,10000,100000", "rows": "100,10000,1000000"}
"""Of each kind, unless the command says otherwise."""
SIDE = 64
STEPS = 100
BATCH = 8


@attrs.frozen(kw_only=True)
class Cost:
    """What one process took: seconds of the work, of the processor (imports too), bytes of its peak and of the plan."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    written: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth")
    for kind, counts in COUNTS.items():
        parser.add_argument(f"--{kind}", default=counts, help="how many, with commas; empty: none of them")
    parser.add_argument("--out", type=Path, help="a file for the figures; they are printed anyway")
    parser.add_argument("--child", help="internal: STAGE:KIND")
    options = parser.parse_args()
    if options.child:
        stage, kind = options.child.split(":")
        sys.stdout.write(json.dumps(attrs.asdict(STAGES[stage](kind))))
        return
    asked = {kind: [int(count) for count in getattr(options, kind).split(",") if count] for kind in COUNTS}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, counts in asked.items():
        for count in counts:
            cost = found.setdefault(kind, {})[str(count)] = measured(kind, count)
            sys.stderr.write(f"{kind} {count}: {json.dumps(cost)}\n")
    load = os.getloadavg()
    figures = {
        "command": f"python -m tests.bench.growth {' '.join(sys.argv[1:])}",
        "machine": {"cpus": os.cpu_count(), "load": [round(one, 1) for one in load]},
        "cost": found,
        "per_item": {kind: per_item(costs, asked[kind]) for kind, costs in found.items()},
    }
    text = json.dumps(figures, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def measured(kind: str, count: int) -> dict[str, Any]:
    """Each stage's cost for so many items, made for the purpose."""
    with tempfile.TemporaryDirectory(prefix="lorac-growth-") as name:
        work = Path(name)
        MAKERS[kind](work, count)
        environment = {**os.environ, "LORAC_CACHE": str(work / "cache"), "PYTHONPATH": str(ROOT)}
        costs = {}
        for stage in STAGES:
            child = [sys.executable, "-m", "tests.bench.growth", "--child", f"{stage}:{kind}"]
            done = subprocess.run(child, cwd=work, env=environment, check=True, stdout=subprocess.PIPE)
            costs[stage] = json.loads(done.stdout)
    return costs


def per_item(costs: dict[str, dict[str, Any]], counts: list[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Stage -> "FROM-TO" -> what each further item cost: CPU seconds, bytes of the peak."""
    found: dict[str, dict[str, dict[str, float]]] = {stage: {} for stage in STAGES}
    for stage, steps in found.items():
        for before, now in itertools.pairwise(counts):
            steps[f"{before}-{now}"] = {
                what: float(
                    f"{(costs[str(now)][stage][what] - costs[str(before)][stage][what]) / (now - before):.3g}"
                )
                for what in ("cpu_seconds", "peak_bytes")
            }
    return found


# --------------------------------------------------------------------------------------------------------- the items


def make_pictures(work: Path, count: int) -> None:
    """A tiny Stable Diffusion, and pictures of one size that differ in a few bytes, with a caption each."""
    from runtime.families import sd1

    sd1.tiny(work / "base")
    (work / "data").mkdir()
    for at in range(count):
        folder = work / "data" / f"{at // 1000:04}"
        folder.mkdir(exist_ok=True)
        (folder / f"{at:07}.png").write_bytes(png(at))
    with (work / "data" / "metadata.jsonl").open("w") as file:
        for at in range(count):
            row = {"file_name": f"{at // 1000:04}/{at:07}.png", "text": f"a picture of thing {at}"}
            file.write(json.dumps(row) + "\n")


def png(number: int) -> bytes:
    """A grey PNG with the number in its first pixels (PNG specification, third edition)."""
    line = b"\0" + bytes(SIDE)
    pixels = b"\0" + number.to_bytes(8, "big") + bytes(SIDE - 8) + line * (SIDE - 1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixels, 1)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def make_rows(work: Path, count: int) -> None:
    """A tiny language model, and instructions of a few words."""
    from runtime.families import causal_lm

    causal_lm.tiny(work / "base")
    with (work / "data.jsonl").open("w") as file:
        for at in range(count):
            file.write(json.dumps({"instruction": f"Say {at}", "output": f"word {at}"}) + "\n")


MAKERS: dict[str, Callable[[Path, int], None]] = {"pictures": make_pictures, "rows": make_rows}


# -------------------------------------------------------------------------------------------------------- the stages


def experiment(kind: str) -> Any:
    """One epoch of the items."""
    from lorac import Answers, Experiment, Fit, Images, Instructions, LoRA, Samples, Sequences, Train

    given: dict[str, Any] = (
        {"data": Images("data", resolution=SIDE, buckets=False), "samples": Samples()}
        if kind == "pictures"
        else {"data": Instructions("data.jsonl"), "sequences": Sequences(length=128), "samples": Answers()}
    )
    return Experiment(
        name="growth",
        base="base",
        adapter=LoRA(rank=4),
        train=Train(effective_batch=BATCH, epochs=1, learning_rate=1e-4),
        fit=Fit(card="cpu", threads=1, micro_batch=1, gradient_checkpointing=False),
        **given,
    )


def plan_it(kind: str) -> Cost:
    from lorac.compile import compile_experiment
    from runtime import plan

    began = time.monotonic()
    of = compile_experiment(experiment(kind), Path.cwd(), Path.cwd())
    plan.write(of, Path("out/plan.json"))
    return spent(began)


def plan_it_again(kind: str) -> Cost:
    for kept in Path(os.environ["LORAC_CACHE"]).glob("plans/*"):
        kept.unlink()
    return plan_it(kind)


def check_it(kind: str) -> Cost:
    from runtime import plan, preflight

    began = time.monotonic()
    of = plan.read(Path("out/plan.json"))
    problems = preflight.data_problems(of.program.data, Path(of.outputs.places.data))
    assert not problems, problems
    return spent(began)


def take_steps(kind: str) -> Cost:
    from runtime import plan
    from runtime.data.order import Order

    began = time.monotonic()
    of = plan.read(Path("out/plan.json"))
    order: Any = Order(plan.pictures(of.program.data), 1, BATCH) if kind == "pictures" else order_of_rows(of)
    for number in range(STEPS):
        order.step(number)
    return spent(began)


def order_of_rows(of: Any) -> Any:
    from runtime.families import family
    from runtime.text import corpus, sequences

    data, base = of.program.data, of.program.base
    architecture = family(base.family)
    tokenizer = architecture.load_tokenizers(Path(of.outputs.places.base), base)[architecture.BACKBONE]
    rule = corpus.Rule(template=data.template, length=data.length, held_out=data.held_out)
    cache = Path(os.environ["LORAC_CACHE"])
    root = Path(of.outputs.places.data)
    corpora = [
        corpus.of_file(
            root / file.path, file.sha256, file.shape, file.columns, rule, tokenizer, base.digest, cache
        )
        for file in data.files
    ]
    return sequences.order_of(corpora, [1.0], data.length, data.packing, 1, BATCH)


def spent(began: float) -> Cost:
    seconds, cpu = round(time.monotonic() - began, 2), round(time.process_time(), 2)
    written = {path.name: path.stat().st_size for path in Path("out").iterdir()}
    return Cost(seconds=seconds, cpu_seconds=cpu, peak_bytes=memory("VmHWM"), written=written)


STAGES: dict[str, Callable[[str], Cost]] = {
    "plan": plan_it,
    "kept": plan_it,
    "again": plan_it_again,
    "check": check_it,
    "steps": take_steps,
}

if __name__ == "__main__":
    main()
