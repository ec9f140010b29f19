"""The loss of each step that peft under transformers' Trainer sees on given batches: for comparing curves.

`python -m tests.bench.language.curve BATCHES.json [--init ADAPTER] [--write-init FILE]` prints a JSON line a step.

BATCHES.json:

    {"model": FOLDER, "rank": 16, "alpha": 32, "targets": [...], "dtype": "float32", "seed": 7,
     "learning_rates": [one a step], "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0,
     "steps": [[micro-batch, ...], ...]}

A micro-batch has `input_ids` and `labels` of (sequences, length), labels at their own token and -100 where none is
trained, and `attention_mask` or `position_ids` if it needs one. Each step has as many micro-batches. A step's loss is
the mean over its trained tokens, before the update. `--init` is a file of LoRA weights by PEFT's names, which
`--write-init` writes: two trainers that begin at different weights have different curves.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import cattrs
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

MicroBatch = dict[str, list[list[int]]]


@attrs.frozen(kw_only=True)
class Batches:
    """The file's content."""

    model: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    learning_rates: tuple[float, ...]
    steps: tuple[tuple[MicroBatch, ...], ...]
    dtype: str = "float32"
    seed: int = 7
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __attrs_post_init__(self) -> None:
        counts = {len(step) for step in self.steps}
        if len(counts) != 1 or len(self.learning_rates) != len(self.steps):
            raise ValueError("each step needs as many micro-batches as the others, and a learning rate")


@attrs.frozen(kw_only=True)
class Step:
    """`grad_norm` is before clipping."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float


def adapted(given: Batches, init: Path | None = None) -> nn.Module:
    """The model with a LoRA, at the seed's first weights or those of a file."""
    base = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype))
    base.config.use_cache = False  # with a cache, positions that begin again are not seen
    torch.manual_seed(given.seed)
    config = LoraConfig(
        r=given.rank,
        lora_alpha=given.alpha,  # type: ignore[arg-type]  # peft divides whatever number it is
        target_modules=list(given.targets) if len(given.targets) > 1 else given.targets[0],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    if init is not None:
        found: Any = set_peft_model_state_dict(model, load_file(init))
        if found.unexpected_keys:
            raise ValueError(f"the model has no {found.unexpected_keys[0]}")
    return model


def losses(given: Batches, model: nn.Module) -> list[Step]:
    """Train, step by step."""
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=1.0,  # times what the schedule says
        betas=given.betas,
        eps=given.eps,
        weight_decay=given.weight_decay,
    )
    rates = [*given.learning_rates, 0.0]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[step])
    noted = _Noted()
    with tempfile.TemporaryDirectory() as output:
        trainer = _Exact(
            model=model,
            args=TrainingArguments(
                output_dir=output,
                use_cpu=True,
                max_steps=len(given.steps),
                per_device_train_batch_size=1,
                gradient_accumulation_steps=len(given.steps[0]),
                train_sampling_strategy="sequential",
                max_grad_norm=given.max_grad_norm,
                seed=given.seed,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=[micro_batch for step in given.steps for micro_batch in step],
            data_collator=_tensors,
            optimizers=(optimizer, schedule),
            callbacks=[noted],
        )
        trainer.train()
    per_step = len(given.steps[0])
    sums = [sum(trainer.seen[at : at + per_step]) for at in range(0, len(trainer.seen), per_step)]
    return [
        Step(step=at + 1, loss=loss, learning_rate=rate, grad_norm=norm)
        for at, (loss, rate, norm) in enumerate(zip(sums, given.learning_rates, noted.norms, strict=True))
    ]


class _Exact(Trainer):
    """Keeps each micro-batch's part of the step's loss, which the log rounds."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.seen: list[float] = []

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        loss = super().training_step(*arguments, **named)
        self.seen.append(float(loss))
        return loss


class _Noted(TrainerCallback):
    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if "grad_norm" in given["logs"]:
            self.norms.append(float(given["logs"]["grad_norm"]))


def _tensors(features: list[MicroBatch]) -> dict[str, Tensor]:
    """A micro-batch is one row of the data set, whole."""
    (only,) = features
    return {name: torch.tensor(values) for name, values in only.items()}


def _lines(found: list[Step]) -> Iterator[str]:
    for step in found:
        yield json.dumps(attrs.asdict(step))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("batches", type=Path)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--write-init", type=Path)
    options = parser.parse_args()
    given = cattrs.structure(json.loads(options.batches.read_text()), Batches)
    model = adapted(given, options.init)
    if options.write_init:
        save_file(
            {k: v.contiguous() for k, v in get_peft_model_state_dict(model).items()}, options.write_init
        )
    for line in _lines(losses(given, model)):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
