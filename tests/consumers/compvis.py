"""Stable Diffusion as WebUI and ComfyUI build it: CompVis's module names, and which of diffusers' each one is.

- The names are made from the original numbers (CompVis's configs/stable-diffusion/v1-inference.yaml: channel_mult 1,
  2, 4, 4, two residual blocks a level, attention in the first three; generative-models' sd_xl_base.yaml: channel_mult
  1, 2, 4, transformer_depth 0, 2, 10, a label_emb), not from ours.
- Which module of diffusers' is which is asked of diffusers' own checkpoint converter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

BLOCKS = 2


@attrs.frozen
class UNet:
    """Widths of the levels, blocks of their transformers, those of the middle one, and modules before the first."""

    multipliers: tuple[int, ...]
    depths: tuple[int, ...]
    middle: int
    embeddings: tuple[str, ...] = ("time_embed.0", "time_embed.2")


SD = UNet((1, 2, 4, 4), (1, 1, 1, 0), 1)
XL = UNet((1, 2, 4), (0, 2, 10), 10, (*SD.embeddings, "label_emb.0.0", "label_emb.0.2"))

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TRANSFORMER_BLOCK = (
    *(f"attn1.{part}" for part in ATTENTION),
    *(f"attn2.{part}" for part in ATTENTION),
    "ff.net.0.proj",
    "ff.net.2",
)
CLIP_LAYER = (*(f"self_attn.{part}_proj" for part in "qkv"), "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def layout(architecture: dict[str, Any]) -> UNet:
    """SD 1 and 2 have one, XL its own."""
    return XL if "text_encoder_2" in architecture else SD


def unet(of: UNet = SD) -> list[str]:
    """Every linear layer and convolution of the UNet by CompVis's names."""
    return [*of.embeddings, "input_blocks.0.0", *_down(of), *_middle(of), *_up(of), "out.2"]


def text_encoder(layers: int) -> list[str]:
    """Every linear layer of the text encoder by the names that SD 1.x checkpoints hold."""
    return [f"text_model.encoder.layers.{n}.{part}" for n in range(layers) for part in CLIP_LAYER]


def in_diffusers(architecture: dict[str, Any]) -> dict[str, str]:
    """CompVis's UNet module -> diffusers' module."""
    prefix, of = "model.diffusion_model.", layout(architecture)
    marked: dict[str, Any] = {
        f"{prefix}{name}.{kind}": name for name in [*unet(of), *_norms(of)] for kind in ("weight", "bias")
    }
    config = {"layers_per_block": BLOCKS, **architecture["unet"]}
    found = convert_ldm_unet_checkpoint(marked, config)
    known = set(unet(of))
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


def _transformer(prefix: str, depth: int) -> Iterator[str]:
    yield f"{prefix}.proj_in"
    for block in range(depth):
        for part in TRANSFORMER_BLOCK:
            yield f"{prefix}.transformer_blocks.{block}.{part}"
    yield f"{prefix}.proj_out"


def _down(of: UNet) -> Iterator[str]:
    block, before = 0, of.multipliers[0]
    for level, (width, depth) in enumerate(zip(of.multipliers, of.depths, strict=True)):
        for _ in range(BLOCKS):
            block += 1
            yield from _residual(f"input_blocks.{block}.0", width != before)
            before = width
            if depth:
                yield from _transformer(f"input_blocks.{block}.1", depth)
        if level < len(of.multipliers) - 1:
            block += 1
            yield f"input_blocks.{block}.0.op"


def _middle(of: UNet) -> Iterator[str]:
    yield from _residual("middle_block.0", False)
    yield from _transformer("middle_block.1", of.middle)
    yield from _residual("middle_block.2", False)


def _up(of: UNet) -> Iterator[str]:
    block = 0
    for level in reversed(range(len(of.multipliers))):
        for place in range(BLOCKS + 1):
            yield from _residual(f"output_blocks.{block}.0", True)
            depth = of.depths[level]
            if depth:
                yield from _transformer(f"output_blocks.{block}.1", depth)
            if place == BLOCKS and level:
                yield f"output_blocks.{block}.{2 if depth else 1}.conv"
            block += 1


def _norms(of: UNet) -> list[str]:
    """Names that only the converter wants to see."""
    found = ["out.0"]
    for name in unet(of):
        if name.endswith(".proj_in"):
            found += [name.replace("proj_in", "norm")]
        if name.endswith(".attn1.to_q"):
            found += [name.replace("attn1.to_q", f"norm{n}") for n in (1, 2, 3)]
        if name.endswith(".in_layers.2"):
            found += [name.replace("in_layers.2", "in_layers.0"), name.replace("in_layers.2", "out_layers.0")]
    return found
