"""What the families' tiny bases have in common: the smallest parts, and the files around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.families.protocol import Architecture

CLIP_WORDS = 1024

CLIP = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "vocab_size": CLIP_WORDS,
    "bos_token_id": CLIP_WORDS - 2,
    "eos_token_id": CLIP_WORDS - 1,
}

VAE = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "sample_size": 64}


def write(
    folder: Path, config: Architecture, build: Callable[[Architecture, str], Any], components: Iterable[str]
) -> None:
    """Write these components with random weights, in half precision: the same ones each time.

    A transformer's are twice what torch draws: through its small gates a LoRA of three steps would hardly be seen.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for component in components:
            module = build(config, component)
            if component == "transformer":
                for layer in module.modules():
                    if isinstance(layer, nn.Linear):
                        layer.weight.data.mul_(2)
            module.half().save_pretrained(folder / component)


def write_index(
    folder: Path, pipeline: str, classes: Mapping[str, str], scheduler: Mapping[str, Any]
) -> None:
    """Write model_index.json and the scheduler's config; `classes` are the components' and the scheduler's."""
    diffusers = ("transformer", "unet", "vae", "scheduler")
    index = {
        name: ["diffusers" if name in diffusers else "transformers", kind] for name, kind in classes.items()
    }
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    files = {
        "model_index.json": {"_class_name": pipeline, **index},
        "scheduler/scheduler_config.json": {"_class_name": classes["scheduler"], **scheduler},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2))
