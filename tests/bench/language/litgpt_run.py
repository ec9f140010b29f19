"""LitGPT's own command `litgpt finetune_lora`: `python -m tests.bench.language.litgpt_run TASK RESULT`.

- `bfloat16` is its precision bf16-true (adapter and moments too), `autocast` bf16-mixed, `float32` 32-true.
- It clips no gradients, and its warm-up has at least one step, at a rate of 0.
- Its loss is the mean over a micro-batch's trained tokens, a step's the mean of those, as its recipe has it.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from litgpt.__main__ import main as litgpt
from litgpt.lora import GPT, Config
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tests.bench.language import litgpt_rows, measure
from tests.bench.language.setting import Task

PRECISIONS = {"bfloat16": "bf16-true", "autocast": "bf16-mixed", "float32": "32-true"}
DTYPES = {"bfloat16": torch.bfloat16, "autocast": torch.float32, "float32": torch.float32}
EVERYWHERE = ("query", "key", "value", "projection", "mlp")
"""All linear layers of the blocks, as LitGPT's options call them."""


def run(task: Task) -> measure.Result:
    setting = task.setting
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(json.dumps(config(task, folder / "out")))  # JSON is YAML
        command = ["litgpt", "finetune_lora", "--config", str(folder / "config.yaml")]
        with patch.object(sys, "argv", command):  # which LitGPT reads once more when it saves
            litgpt()
        clock = litgpt_rows.CLOCK
        clock.losses = losses(folder / "out", task.micro_batches)
        model = finished(task, folder / "out" / "final" / "lit_model.pth.lora")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(setting.model)
    loss = measure.held_out_loss(model, tokenizer, setting, forward)
    steps = measure.by_step(litgpt_rows.SEEN, setting.steps, task.micro_batches)
    return measure.result(task, clock, steps, loss)


def lora(task: Task) -> dict[str, Any]:
    return {
        "lora_r": task.setting.rank,
        "lora_alpha": task.setting.alpha,
        "lora_dropout": 0.0,
        **{f"lora_{name}": True for name in EVERYWHERE},
    }


def config(task: Task, out: Path) -> dict[str, Any]:
    """In the form of LitGPT's config_hub/finetune."""
    setting, way = task.setting, task.way
    return {
        "checkpoint_dir": setting.converted,
        "out_dir": str(out),
        "precision": PRECISIONS[way.dtype],
        **lora(task),
        "data": {
            "class_path": "tests.bench.language.litgpt_rows.Rows",
            "init_args": {
                "model": setting.model,
                "train": task.rows,
                "held_out": setting.held_out,
                "length": setting.length,
                "steps": setting.steps,
            },
        },
        "train": {
            "save_interval": None,
            "log_interval": 1,  # its log is written with every line then, and else perhaps never
            "global_batch_size": task.batch,
            "micro_batch_size": way.micro_batch,
            "lr_warmup_steps": 1,
            "epochs": 1,
            "max_steps": setting.steps,
        },
        "eval": {"interval": setting.steps + 1, "max_new_tokens": 1, "final_validation": False},
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {
                "lr": setting.learning_rate,
                "weight_decay": setting.weight_decay,
                "fused": True,
            },
        },
        "seed": setting.seed,
    }


def losses(out: Path, micro_batches: int) -> list[float]:
    """One of each step, from LitGPT's own log: what it logs is the mean over as many micro-batches as a step has."""
    (log,) = out.glob("logs/csv/*/metrics.csv")
    with log.open() as lines:
        logged = [float(row["loss"]) for row in csv.DictReader(lines) if row["loss"]]
    return logged[micro_batches - 1 :: micro_batches]


def finished(task: Task, adapter: Path) -> nn.Module:
    """LitGPT's model with the adapter beside the base, not merged: in bf16 a merged one is rounded once more."""
    converted = Path(task.setting.converted)
    model = GPT(Config.from_file(converted / "model_config.yaml", **lora(task)))
    model.load_state_dict(torch.load(converted / "lit_model.pth"), strict=False)
    model.to(DTYPES[task.way.dtype])
    left = model.load_state_dict(torch.load(adapter)["model"], strict=False)
    assert not left.unexpected_keys, left
    return model


def forward(model: nn.Module, ids: Tensor) -> Tensor:
    found: Tensor = model(ids)
    return found


if __name__ == "__main__":
    measure.main(run)
