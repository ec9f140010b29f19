"""lorac: `python -m tests.bench.language.lorac_run TASK RESULT`. Plans and runs a spec as a user would, and watches.

Step ends are when a line of metrics.jsonl arrives; memory and time are those of the process that trains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import psutil
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from runtime import plan
from runtime.families import family
from runtime.media import text
from runtime.preflight import Where
from tests.bench.language import measure
from tests.bench.language.setting import ROOT, Setting, Task

NAME = "bench"
EVERY = 0.02
"""Seconds between looks at the run."""

DTYPES = {"float32": "fp32", "bfloat16": "bf16"}

SPEC = """from lorac import AdamW, Experiment, Fit, Instructions, LoRA, Sequences, Train

experiment = Experiment(
    name={name!r},
    base={setting.model!r},
    data=Instructions({train!r}),
    sequences=Sequences(length={setting.length}, packing={way.is_packed}),
    adapter=LoRA(rank={setting.rank}, alpha={setting.alpha}),
    train=Train(
        effective_batch={batch},
        steps={setting.steps},
        learning_rate={setting.learning_rate},
        optimizer=AdamW(weight_decay={setting.weight_decay}),
        max_grad_norm={setting.max_grad_norm},
        seed={setting.seed},
    ),
    fit=Fit(card="cpu", threads={threads}{fit}),
)
"""


@attrs.define
class Watch:
    """What was seen of the training process."""

    began: float
    ends: list[float] = attrs.field(factory=list)
    cpu: list[float] = attrs.field(factory=list)
    losses: list[float] = attrs.field(factory=list)
    first_step: float = 0.0
    peak: int = 0


def run(task: Task) -> measure.Result:
    with tempfile.TemporaryDirectory(prefix="lorac-bench-") as name:
        folder = Path(name)
        (folder / "spec.py").write_text(spec(task), encoding="utf-8")
        seen = watched(folder)
        batches = counted(folder, task)
        held_out = held_out_loss(folder / "output" / NAME, task.setting)
    clock = measure.Clock()
    clock.began, clock.first_step = seen.began, seen.first_step
    clock.ends, clock.cpu, clock.losses = seen.ends, seen.cpu, seen.losses
    clock.step_peak = seen.peak
    return measure.result(task, clock, batches, held_out)


def spec(task: Task) -> str:
    """The experiment as a lorac spec; a micro-batch of 0 leaves it to the planner."""
    setting, way = task.setting, task.way
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    fit = f", micro_batch={way.micro_batch}" if way.micro_batch else ""
    fit += f", dtype={DTYPES[way.dtype]!r}"
    fit += ", gradient_checkpointing=True" if way.recompute else ""
    return SPEC.format(
        name=NAME, setting=setting, way=way, train=task.rows, batch=task.batch, threads=threads, fit=fit
    )


def watched(folder: Path) -> Watch:
    """`lorac run` in `folder`, to its end. Raises RuntimeError with its words where it fails."""
    metrics = folder / "logs" / NAME / "metrics.jsonl"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LORAC_CACHE": str(folder / "cache")}
    with (folder / "said.txt").open("w+") as said:
        command = [sys.executable, "-m", "lorac", "run", "spec.py"]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT)
        of = psutil.Process(process.pid)
        watch = Watch(began=of.create_time())
        while process.poll() is None:
            look(watch, of, metrics)
            time.sleep(EVERY)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read()[-3000:])
    return watch


def look(watch: Watch, of: psutil.Process, metrics: Path) -> None:
    """Take down each step that ended since the last look, and the peak of memory so far."""
    if not metrics.exists():
        metrics = next(metrics.parents[2].glob("**/metrics.jsonl"), metrics)
        if not metrics.exists():
            return
    lines = metrics.read_text().split("\n")[:-1]
    steps = [step for step in map(json.loads, lines) if "loss" in step]
    if len(steps) == len(watch.ends):
        return
    try:
        now, times = time.time(), of.cpu_times()
        status = Path(f"/proc/{of.pid}/status").read_text()
    except (psutil.Error, OSError):
        return  # it just ended; the last steps were seen before its export
    for step in steps[len(watch.ends) :]:
        if not watch.ends:
            watch.first_step = now - step["seconds"]
        watch.ends.append(now)
        watch.cpu.append(times.user + times.system)
        watch.losses.append(step["loss"])
    watch.peak = next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")
    )


def counted(folder: Path, task: Task) -> list[list[measure.Seen]]:
    """What each micro-batch of each step held, by the run's own order."""
    of = plan.read(next(folder.glob("generated/*/plan.json")))
    program, places = of.program, of.outputs.places
    where = Where(
        base=folder / places.base,
        data=folder / places.data,
        output=folder / "output",
        log=folder / "logs",
        cache=folder / "cache",
    )
    kind = family(program.base.family)
    tokenizers = kind.load_tokenizers(where.base, program.base)
    feed = text.read(kind, tokenizers, program, where, torch.device("cpu"))
    return [
        [counted_part(feed, part) for part in feed.cut(feed.step(number), program.train.micro_batch)]
        for number in range(task.setting.steps)
    ]


def counted_part(feed: text.Texts, part: Sequence[Any]) -> measure.Seen:
    samples = [feed.tokens(one) for row in part for one in row.samples]
    return measure.Seen(
        trained=sum(text.trained(sample) for sample in samples),
        tokens=sum(len(sample.ids) for sample in samples),
        places=feed.batch(part)["input_ids"].numel(),
    )


def held_out_loss(folder: Path, setting: Setting) -> float:
    """As every trainer's, with the adapter that was written."""
    base = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    return measure.held_out_loss(PeftModel.from_pretrained(base, folder), tokenizer, setting)


if __name__ == "__main__":
    measure.main(run)
