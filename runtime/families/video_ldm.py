"""Stable Video Diffusion's single file, in the layout of Stability-AI/generative-models' `svd.yaml`: `ldm`'s, with
layers over time between those of a picture.

| component | names begin with |
| --- | --- |
| UNet | `model.diffusion_model.` |
| CLIP's vision tower | `conditioner.embedders.0.open_clip.model.visual.` |
| autoencoder: encoder, `quant_conv` | `conditioner.embedders.3.encoder.` |
| autoencoder: decoder, over time | `first_stage_model.decoder.` |

Nothing needs what else is there: what CLIP has for words, the decoder of pictures and `post_quant_conv` beside that
encoder, and `first_stage_model.encoder.`, a second encoder, without a `quant_conv`. diffusers' folder has the encoder
that a clip's first frame goes through on its way to the UNet, and so it is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import isqrt
from typing import Any, TypeVar

from torch import Tensor

from runtime.families import bundles, ldm
from runtime.families.protocol import Shapes

VISION = "conditioner.embedders.0.open_clip.model.visual."
VISION_BLOCKS = f"{VISION}transformer.resblocks."
ENCODER = "conditioner.embedders.3.encoder."
DECODER = f"{ldm.VAE}decoder."
OVER_TIME = f"{DECODER}conv_out.time_mix_conv."
"""The decoder's last layer, over frames: a decoder of pictures has none."""
TOLD = 3
"""Numbers that the UNet is told: frames a second, motion, and the first frame's noise."""

_W = TypeVar("_W")


# ------------------------------------------------------------------------------------------------------------ configs


def told_width(shapes: Shapes) -> int:
    """Of all the numbers that the UNet is told, side by side."""
    return shapes[f"{ldm.UNET}label_emb.0.0.weight"][1]


def unet_config(shapes: Shapes, defaults: Mapping[str, Any], head: int) -> dict[str, Any]:
    """UNetSpatioTemporalConditionModel's config; `defaults` holds what names and shapes cannot say, `head` is the width
    of each head of its attention."""
    of_pictures = ldm.unet_config(shapes, {})
    alike = ("in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
    kinds = ("down_block_types", "up_block_types")
    return {
        **defaults,
        **{key: of_pictures[key] for key in alike},
        **{key: [kind.replace("2D", "SpatioTemporal") for kind in of_pictures[key]] for key in kinds},
        "num_attention_heads": [width // head for width in of_pictures["block_out_channels"]],
        "addition_time_embed_dim": told_width(shapes) // TOLD,
        "projection_class_embeddings_input_dim": told_width(shapes),
    }


def vae_config(shapes: Shapes, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """AutoencoderKLTemporalDecoder's config; `defaults` holds what names and shapes cannot say."""
    of_pictures = ldm.vae_config({name: shapes[theirs] for name, theirs in _vae(shapes).items()}, defaults)
    return {key: value for key, value in of_pictures.items() if key != "up_block_types"}


def vision_config(shapes: Shapes, head: int) -> dict[str, Any]:
    """CLIPVisionConfig of an OpenCLIP tower; `head` is the width of each head of its attention."""
    width, _, patch, _ = shapes[f"{VISION}conv1.weight"]
    return {
        "hidden_size": width,
        "intermediate_size": shapes[f"{VISION_BLOCKS}0.mlp.c_fc.weight"][0],
        "num_hidden_layers": bundles.count(shapes, VISION_BLOCKS),
        "num_attention_heads": width // head,
        "patch_size": patch,
        "image_size": patch * isqrt(shapes[f"{VISION}positional_embedding"][0] - 1),
        "projection_dim": shapes[f"{VISION}proj"][1],
        "hidden_act": "gelu",
    }


# ------------------------------------------------------------------------------------------------------------ weights

Renames = tuple[tuple[str, str], ...]
"""What is looked for in a name, as a regex, and what stands there instead; one after the other."""

OF_ONE_FRAME = (r"(\.resnets\.\d+)\.(norm|conv|time_emb_proj)", r"\1.spatial_res_block.\2")
UNET: Renames = (
    OF_ONE_FRAME,
    (r"(\.resnets\.\d+)\.time_stack\.", r"\1.temporal_res_block."),
    (r"(\.attentions\.\d+)\.time_stack\.", r"\1.temporal_transformer_blocks."),
    (r"\.time_pos_embed\.0\.", ".time_pos_embed.linear_1."),
    (r"\.time_pos_embed\.2\.", ".time_pos_embed.linear_2."),
)
"""From the names that a UNet of pictures would have in diffusers."""
DECODING: Renames = (
    OF_ONE_FRAME,
    (r"\.time_stack\.in_layers\.0\.", ".temporal_res_block.norm1."),
    (r"\.time_stack\.in_layers\.2\.", ".temporal_res_block.conv1."),
    (r"\.time_stack\.out_layers\.0\.", ".temporal_res_block.norm2."),
    (r"\.time_stack\.out_layers\.3\.", ".temporal_res_block.conv2."),
    (r"\.mix_factor$", ".time_mixer.mix_factor"),
)
"""From the names that a decoder of pictures would have there."""
SEEING: Renames = (
    (r"^transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^ln_pre\.", "vision_model.pre_layrnorm."),  # so it is spelt in transformers
    (r"^ln_post\.", "vision_model.post_layernorm."),
)
"""From OpenCLIP's names to transformers'."""


def unet_weights(names: list[str], load: Callable[[str], _W], config: Mapping[str, Any]) -> dict[str, _W]:
    """The UNet's weights under diffusers' names."""
    told = {**config, "addition_embed_type": "text_time"}  # by this alone `label_emb` is taken along
    return {_renamed(name, UNET): one for name, one in ldm.unet_weights(names, load, told).items()}


def vae_weights(
    names: list[str], load: Callable[[str], Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The autoencoder's weights under diffusers' names."""
    theirs = _vae(names)
    levels = {**config, "up_block_types": config["down_block_types"]}  # to be counted
    found = ldm.vae_weights(list(theirs), lambda name: load(theirs[name]), levels)
    return {
        **{_renamed(n, DECODING) if n.startswith("decoder.") else n: one for n, one in found.items()},
        **{
            f"decoder.time_conv_out.{name.removeprefix(OVER_TIME)}": load(name)
            for name in names
            if name.startswith(OVER_TIME)
        },
    }


def vision_weights(names: Iterable[str], load: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The vision tower's weights under transformers' names: q, k and v, which lie in one tensor there, are parted, and
    the projection is turned."""
    found: dict[str, Tensor] = {}
    for name in names:
        inner = name.removeprefix(VISION)
        if inner == name:
            continue
        if inner == "proj":
            found["visual_projection.weight"] = load(name).T.contiguous()
        elif ".in_proj_" in inner:
            # A part is copied, so that it does not hold the whole.
            for part, rows in zip("qkv", load(name).chunk(3), strict=True):
                found[_renamed(inner.replace(".in_proj_", f".{part}_proj."), SEEING)] = rows.clone()
        else:
            found[_renamed(inner, SEEING)] = load(name)
    return found


def _vae(names: Iterable[str]) -> dict[str, str]:
    """Names that an autoencoder of pictures has in `ldm`'s layout -> a file's own."""
    found = {}
    for name in names:
        if name.startswith((f"{ENCODER}encoder.", f"{ENCODER}quant_conv.")):
            found[ldm.VAE + name.removeprefix(ENCODER)] = name
        elif name.startswith(DECODER) and not name.startswith(OVER_TIME):
            found[name] = name
    return found


def _renamed(name: str, renames: Renames) -> str:
    for pattern, instead in renames:
        name = re.sub(pattern, instead, name)
    return name
