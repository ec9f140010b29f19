"""Stable Diffusion 1.x as WebUI and ComfyUI build it: CompVis's module names, and which of diffusers'
each one is.

- The names are made from CompVis's own numbers (configs/stable-diffusion/v1-inference.yaml: channel_mult
  1, 2, 4, 4, two residual blocks a level, attention in the first three), not from ours.
- Which module of diffusers' is which is asked of diffusers' own checkpoint converter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

MULTIPLIERS = (1, 2, 4, 4)
WITH_ATTENTION = (0, 1, 2)
BLOCKS = 2

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TRANSFORMER = (
    "proj_in",
    *(f"transformer_blocks.0.attn1.{part}" for part in ATTENTION),
    *(f"transformer_blocks.0.attn2.{part}" for part in ATTENTION),
    "transformer_blocks.0.ff.net.0.proj",
    "transformer_blocks.0.ff.net.2",
    "proj_out",
)
CLIP_LAYER = (*(f"self_attn.{part}_proj" for part in "qkv"), "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def unet() -> list[str]:
    """Every linear layer and convolution of the UNet by CompVis's names."""
    return ["time_embed.0", "time_embed.2", "input_blocks.0.0", *_down(), *_middle(), *_up(), "out.2"]


def text_encoder(layers: int) -> list[str]:
    """Every linear layer of the text encoder by the names that SD 1.x checkpoints hold."""
    return [f"text_model.encoder.layers.{n}.{part}" for n in range(layers) for part in CLIP_LAYER]


def in_diffusers(architecture: dict[str, Any]) -> dict[str, str]:
    """CompVis's UNet module -> diffusers' module."""
    prefix = "model.diffusion_model."
    marked: dict[str, Any] = {
        f"{prefix}{name}.{kind}": name for name in [*unet(), *_norms()] for kind in ("weight", "bias")
    }
    config = {"layers_per_block": BLOCKS, **architecture["unet"]}
    found = convert_ldm_unet_checkpoint(marked, config)
    known = set(unet())
    return {
        name: key.removesuffix(".weight")
        for key, name in found.items()
        if name in known and key.endswith(".weight")
    }


def _residual(prefix: str, shortcut: bool) -> Iterator[str]:
    yield f"{prefix}.in_layers.2"
    yield f"{prefix}.emb_layers.1"
    yield f"{prefix}.out_layers.3"
    if shortcut:
        yield f"{prefix}.skip_connection"


def _transformer(prefix: str) -> Iterator[str]:
    for part in TRANSFORMER:
        yield f"{prefix}.{part}"


def _down() -> Iterator[str]:
    block, before = 0, MULTIPLIERS[0]
    for level, width in enumerate(MULTIPLIERS):
        for _ in range(BLOCKS):
            block += 1
            yield from _residual(f"input_blocks.{block}.0", width != before)
            before = width
            if level in WITH_ATTENTION:
                yield from _transformer(f"input_blocks.{block}.1")
        if level < len(MULTIPLIERS) - 1:
            block += 1
            yield f"input_blocks.{block}.0.op"


def _middle() -> Iterator[str]:
    yield from _residual("middle_block.0", False)
    yield from _transformer("middle_block.1")
    yield from _residual("middle_block.2", False)


def _up() -> Iterator[str]:
    block = 0
    for level in reversed(range(len(MULTIPLIERS))):
        for place in range(BLOCKS + 1):
            yield from _residual(f"output_blocks.{block}.0", True)
            attention = level in WITH_ATTENTION
            if attention:
                yield from _transformer(f"output_blocks.{block}.1")
            if place == BLOCKS and level:
                yield f"output_blocks.{block}.{2 if attention else 1}.conv"
            block += 1


def _norms() -> list[str]:
    """Names that only the converter wants to see."""
    found = ["out.0"]
    for name in unet():
        if name.endswith(".proj_in"):
            found += [name.replace("proj_in", "norm")]
            found += [name.replace("proj_in", f"transformer_blocks.0.norm{n}") for n in (1, 2, 3)]
        if name.endswith(".in_layers.2"):
            found += [name.replace("in_layers.2", "in_layers.0"), name.replace("in_layers.2", "out_layers.0")]
    return found
