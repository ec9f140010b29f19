"""lorac's losses beside peft's, step by step: `python -m tests.bench.language.same_curve [--out FOLDER]`.

SmolLM2 on the Jargon File in float32, both from the same first weights, on the same micro-batches, at the same rates.
Peft trains under transformers' Trainer (`curve`). Writes curve_language.json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import load, save_file

from runtime import plan
from runtime import run as runner
from runtime.export import write
from runtime.families import family
from runtime.media import text
from runtime.preflight import Where
from runtime.safeio.atomic import write_text
from runtime.text import packing
from tests import texts
from tests.bench.language import curve, report
from tests.bench.language.__main__ import prepare

STEPS = 16
CPU = torch.device("cpu")


@attrs.frozen(kw_only=True)
class Pair:
    """A step's loss, a mean over its trained tokens, and the gradient's norm before clipping."""

    step: int
    lorac: float
    peft: float
    lorac_norm: float
    peft_norm: float


def same_curve(of: plan.Plan, where: Where) -> list[Pair]:
    """Carry the plan out by the runtime, and its batches by peft. Raises ValueError for packed texts."""
    texts.carry_out(of, where)
    lines = map(json.loads, (where.log / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    steps = [line for line in lines if "loss" in line]
    given = batches(of, where, [step["lr"] for step in steps])
    with tempfile.TemporaryDirectory() as folder:
        first = first_weights(of, where, Path(folder) / "first.safetensors")
        theirs = curve.losses(given, curve.adapted(given, first))
    return [
        Pair(
            step=other.step,
            lorac=step["loss"],
            peft=other.loss,
            lorac_norm=step["grad_norm"],
            peft_norm=other.grad_norm,
        )
        for step, other in zip(steps, theirs, strict=True)
    ]


def batches(of: plan.Plan, where: Where, rates: list[float]) -> curve.Batches:
    """The run's micro-batches, as they are laid out for its model."""
    program = of.program
    assert isinstance(program.data, plan.Texts) and isinstance(program.train.optimizer, plan.AdamW)
    if program.data.packing:
        raise ValueError("packed sequences are kept apart by positions: give rows")
    kind = family(program.base.family)
    feed = text.read(kind, kind.load_tokenizers(where.base, program.base), program, where, CPU)
    return curve.Batches(
        model=str(where.base),
        rank=program.adapter.rank,
        alpha=program.adapter.alpha,
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        learning_rates=tuple(rates),
        betas=(program.train.optimizer.beta1, program.train.optimizer.beta2),
        eps=program.train.optimizer.eps,
        weight_decay=program.train.optimizer.weight_decay,
        max_grad_norm=program.train.max_grad_norm,
        steps=tuple(
            tuple(
                micro_batch(feed, part, program.data.length)
                for part in feed.cut(feed.step(step), program.train.micro_batch)
            )
            for step in range(program.train.steps)
        ),
    )


def micro_batch(feed: text.Texts, part: tuple[Any, ...], length: int) -> curve.MicroBatch:
    made = packing.padded([feed.tokens(row.samples[0]) for row in part], feed.pad, length)
    assert made.attention_mask is not None
    return {
        "input_ids": made.input_ids.tolist(),
        "labels": made.labels.tolist(),
        "attention_mask": made.attention_mask.long().tolist(),
    }


def first_weights(of: plan.Plan, where: Where, file: Path) -> Path:
    """The adapter before the first step, by PEFT's names."""
    kind = family(of.program.base.family)
    modules, _ = runner.load(kind, of.program, where, CPU)
    weights = runner.factors(runner.adapt(kind, modules, of.program))
    save_file(load(write.lora_bytes(of, weights, 0)), file)
    return file


def page(found: dict[str, Any]) -> str:
    """The figures for people, as Markdown."""
    rows = [Pair(**one) for one in found["steps"]]
    return "\n".join(
        [
            "# The loss curve is peft's",
            "",
            f"{found['model']}, float32, LoRA of rank {found['rank']}, {found['batch']} rows a step; {found['day']}. "
            "Versions: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()) + ".",
            "",
            f"The losses differ by at most {found['most']:.1e} of themselves.",
            "",
            "| step | lorac's loss | peft's loss | lorac's gradient norm | peft's |",
            "| ---: | ---: | ---: | ---: | ---: |",
            *(
                f"| {one.step} | {one.lorac:.6f} | {one.peft:.6f} | {one.lorac_norm:.5f} | {one.peft_norm:.5f} |"
                for one in rows
            ),
            "",
            f"Made by `{found['command']}`.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the figures; without it they are printed")
    options = parser.parse_args()
    setting = prepare(STEPS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        of = texts.planned(
            Path(setting.model),
            Path(setting.train),
            folder,
            length=setting.length,
            packing=False,
            rank=setting.rank,
            alpha=setting.alpha,
            effective_batch=setting.batch,
            micro_batch=4,
            accumulation=setting.batch // 4,
            steps=STEPS,
            learning_rate=1e-3,
            save_steps=STEPS,
        )
        pairs = same_curve(of, texts.where(of, folder, folder / "cache"))
    found = {
        "command": "python -m tests.bench.language.same_curve --out docs",
        "day": datetime.date.today().isoformat(),
        "versions": report.all_versions(),
        "model": report.MODELS[Path(setting.model).name],
        "rank": setting.rank,
        "batch": setting.batch,
        "most": max(abs(one.lorac - one.peft) / one.peft for one in pairs),
        "steps": [attrs.asdict(one) for one in pairs],
    }
    if options.out:
        write_text(
            options.out / "curve_language.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        )
        write_text(options.out / "curve_language.md", page(found))
    print(page(found))


if __name__ == "__main__":
    main()
