"""lorac: `python -m tests.bench.language.lorac_run TASK RESULT`. Plans and runs a spec as a user would, and watches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from runtime import plan
from runtime.families import family
from runtime.media import text
from runtime.preflight import Where
from tests.bench.language import measure
from tests.bench.language.setting import Setting, Task
from tests.bench.watched import lorac_run

NAME = "bench"
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


def run(task: Task) -> measure.Result:
    with tempfile.TemporaryDirectory(prefix="lorac-bench-") as name:
        folder = Path(name)
        (folder / "spec.py").write_text(spec(task), encoding="utf-8")
        clock = lorac_run(folder)
        batches = counted(folder, task)
        held_out = held_out_loss(folder / "output" / NAME, task.setting)
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
