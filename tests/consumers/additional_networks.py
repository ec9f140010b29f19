"""The rules by which sd-webui-additional-networks (e9f3d622) loads a LoRA of Stable Diffusion 1.x,
written anew.

Rules of scripts/lora_compvis.py: every key is renamed to CompVis's names, and the first that no rule
renames refuses the file. No line is copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.consumers import a1111
from tests.consumers.loaded import Changes, Loaded, Refused, product, read

UNET = re.compile(
    r"_(?:(?:down|up)_blocks_\d+_(?:attentions|resnets)_\d+_.+|mid_block_(?:attentions|resnets)_\d+_.+"
    r"|down_blocks_\d+_downsamplers_0_conv|up_blocks_\d+_upsamplers_0_conv)"
)
TEXT = re.compile(r"_model_encoder_layers_(\d+)_(.+)")


def compvis_name(name: str) -> str:
    """The extension's name for a file's module. Raises Refused."""
    if "lora_unet_" in name and UNET.search(name):
        residual = re.search(r"resnets_\d+_(.+)", name)
        if residual and residual[1] not in a1111.RESIDUAL:
            raise Refused(name)
        return a1111.compvis_name(name)
    text = TEXT.search(name) if "lora_te_" in name else None
    if text:
        return f"transformer_text_model_encoder_layers_{text[1]}_{text[2]}"
    raise Refused(f"conversion failed: {name}")


def load(path: Path, architecture: dict[str, Any]) -> Loaded:
    """What the extension applies: layers of the transformers, residual blocks and samplers, and of CLIP."""
    tensors = read(path)
    known = {name: target for name, target in a1111.modules(architecture).items() if _wrapped(name)}
    changes: Changes = {}
    left = []
    for key in tensors:
        prefix, _, part = key.partition(".")
        name = compvis_name(prefix)
        if name not in known:
            left.append(key)
        elif part == "lora_down.weight":
            down, up = tensors[key], tensors[f"{prefix}.lora_up.weight"]
            alpha = tensors[f"{prefix}.alpha"].item() if f"{prefix}.alpha" in tensors else 0
            changes[known[name]] = product(up, down, (alpha or len(down)) / len(down))
    return Loaded(changes, left)


def _wrapped(name: str) -> bool:
    return not re.fullmatch(r"diffusion_model_(time_embed_\d|input_blocks_0_0|out_2)", name)
