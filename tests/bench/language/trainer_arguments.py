"""What both peers' trainers are told alike: transformers' TrainingArguments, which SFTConfig extends."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.bench.language.setting import Setting, Task


def arguments(task: Task, output: str) -> dict[str, Any]:
    setting, way = task.setting, task.way
    return {
        "output_dir": output,
        "use_cpu": True,
        "max_steps": setting.steps,
        "per_device_train_batch_size": way.micro_batch,
        "gradient_accumulation_steps": task.micro_batches,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",  # the default since transformers 5, and torch's fastest
        "weight_decay": setting.weight_decay,
        "max_grad_norm": setting.max_grad_norm,
        "bf16": way.dtype != "float32",
        "gradient_checkpointing": way.recompute,
        "torch_compile": way.compile,
        "train_sampling_strategy": "group_by_length" if way.batches == "grouped" else "sequential",
        "seed": setting.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def model(task: Task) -> PreTrainedModel:
    dtype = torch.bfloat16 if task.way.dtype == "bfloat16" else torch.float32
    return AutoModelForCausalLM.from_pretrained(task.setting.model, dtype=dtype, attn_implementation="sdpa")


def lora(setting: Setting) -> LoraConfig:
    return LoraConfig(
        r=setting.rank,
        lora_alpha=setting.alpha,
        lora_dropout=0.0,
        target_modules=list(setting.targets),
        task_type="CAUSAL_LM",
    )
