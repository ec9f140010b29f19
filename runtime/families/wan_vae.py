"""Wan's autoencoder in its publisher's names, as Qwen-Image's file has it: config from names and shapes, weights.

The names are those of Wan-Video/Wan2.1's wan/modules/vae.py. It lists blocks and samplers one after the other, where
diffusers' decoder has them level by level. diffusers' own converter knows the published depth alone
(`convert_wan_vae_to_diffusers`); the tests compare with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from runtime.families.protocol import Shapes

KNOWN_BY = ("encoder.downsamples.0.residual.2.weight", "encoder.down_blocks.0.conv1.weight")
"""The first block, in its publisher's names and in diffusers', which are left as they are."""

# AutoencoderKLQwenImage's defaults, which are those of Qwen/Qwen-Image's vae/config.json.
PUBLISHED: dict[str, Any] = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "latents_mean": [
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ],
    "latents_std": [
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    ],
}

LEAVES = (
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(en|de)coder\.conv1\.", r"\1coder.conv_in."),
    (r"\.head\.0\.", ".norm_out."),
    (r"\.head\.2\.", ".conv_out."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.downsamples\.", ".down_blocks."),
)


def config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """AutoencoderKLQwenImage's config; what names and shapes cannot say is the published one's."""
    ours = {
        _around(name.removeprefix(prefix)): shape for name, shape in shapes.items() if name.startswith(prefix)
    }
    stem = "encoder.down_blocks."
    samplers = sorted(
        int(found[1]) for name in ours if (found := re.fullmatch(rf"{stem}(\d+)\.resample\.1\.weight", name))
    )
    firsts = [0, *(number + 1 for number in samplers)]
    base = ours["encoder.conv_in.weight"][0]
    return {
        **PUBLISHED,
        "base_dim": base,
        "z_dim": ours["post_quant_conv.weight"][0],
        "dim_mult": [ours[f"{stem}{first}.conv1.weight"][0] // base for first in firsts],
        "num_res_blocks": samplers[0],
        "temperal_downsample": [f"{stem}{number}.time_conv.weight" in ours for number in samplers],
    }


def weights(
    names: Iterable[str], load: Callable[[str], Tensor], prefix: str, config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The weights below `prefix` under diffusers' names."""
    return {
        renamed(name.removeprefix(prefix), config["num_res_blocks"]): load(name)
        for name in names
        if name.startswith(prefix)
    }


def renamed(name: str, blocks: int) -> str:
    """diffusers' name of a weight. `blocks`: residual ones of a level of the encoder; of the decoder one more."""

    def placed(found: re.Match[str]) -> str:
        level, place = divmod(int(found[1]), blocks + 2)
        return f"decoder.up_blocks.{level}." + (f"resnets.{place}." if place <= blocks else "upsamplers.0.")

    return re.sub(r"^decoder\.upsamples\.(\d+)\.", placed, _around(name))


def _around(name: str) -> str:
    """diffusers' name but for the decoder's levels."""
    for theirs, ours in LEAVES:
        name = re.sub(theirs, ours, name)
    return name
