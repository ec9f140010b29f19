"""A diffusers folder of Stable Video Diffusion written as one file, as Stability AI publishes svd.safetensors.

The names are made as Stability-AI/generative-models makes the modules: the blocks of `VideoUNet` and `VideoDecoder` are
walked as their constructors do, and each module's own names are a table of its layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

Leaves = Mapping[str, str]
"""A layer's name inside a module of generative-models -> inside diffusers'."""
Module = tuple[str, str, Leaves]
"""A module's name, its name in diffusers, and its layers."""

CLIP = "conditioner.embedders.0.open_clip.model"
FIRST_FRAME = "conditioner.embedders.3.encoder"
UNUSED = (
    rf"{CLIP}\.(?!visual\.)",  # what it has for words
    rf"{FIRST_FRAME}\.(decoder|post_quant_conv)\.",
    r"first_stage_model\.encoder\.",
)
"""What the file has and diffusers' folder has not: here zeros, so that whoever reads it is seen."""

RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out.0"}
FEED_FORWARD = {"net.0.proj": "net.0.proj", "net.2": "net.2"}
NORMS = {name: name for name in ("norm1", "norm2", "norm3")}
RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}


def inside(stem: str, leaves: Leaves, ours: str = "") -> Leaves:
    """The leaves of a module that is called `stem`, in diffusers `ours` (or the same)."""
    return {f"{stem}.{theirs}": f"{ours or stem}.{leaf}" for theirs, leaf in leaves.items()}


TRANSFORMER_BLOCK = {
    **NORMS,
    **inside("attn1", ATTENTION),
    **inside("attn2", ATTENTION),
    **inside("ff", FEED_FORWARD),
}
TIME_BLOCK = {**TRANSFORMER_BLOCK, "norm_in": "norm_in", **inside("ff_in", FEED_FORWARD)}
VIDEO_RES_BLOCK = {
    **{theirs: f"spatial_res_block.{leaf}" for theirs, leaf in RES_BLOCK.items()},
    **inside("time_stack", RES_BLOCK, "temporal_res_block"),
    "time_mixer": "time_mixer",
}
VIDEO_TRANSFORMER = {
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    **inside("transformer_blocks.0", TRANSFORMER_BLOCK),
    **inside("time_stack.0", TIME_BLOCK, "temporal_transformer_blocks.0"),
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
    "time_mixer": "time_mixer",
}
AROUND = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
VIDEO_RESNET = {
    **{theirs: f"spatial_res_block.{leaf}" for theirs, leaf in RESNET.items()},
    **inside("time_stack", RES_BLOCK, "temporal_res_block"),
    "": "time_mixer",  # the block itself has the `mix_factor`
}
ATTENTION_BLOCK = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
VISION_AROUND = {
    "conv1": "embeddings.patch_embedding",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
}
VISION_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def video_unet(layers: int, attends: list[bool]) -> Iterator[Module]:
    """Each module of `VideoUNet`'s blocks; `layers` at each level, and whether it `attends`."""
    last = len(attends) - 1
    number = 1
    for level, attend in enumerate(attends):
        for layer in range(layers):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{layer}", VIDEO_RES_BLOCK
            if attend:
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{layer}", VIDEO_TRANSFORMER
            number += 1
        if level != last:
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0", {"op": "conv"}
            number += 1
    yield "middle_block.0", "mid_block.resnets.0", VIDEO_RES_BLOCK
    yield "middle_block.1", "mid_block.attentions.0", VIDEO_TRANSFORMER
    yield "middle_block.2", "mid_block.resnets.1", VIDEO_RES_BLOCK
    number = 0
    for level in reversed(range(len(attends))):
        up = f"up_blocks.{last - level}"
        for layer in range(layers + 1):
            yield f"output_blocks.{number}.0", f"{up}.resnets.{layer}", VIDEO_RES_BLOCK
            if attends[level]:
                yield f"output_blocks.{number}.1", f"{up}.attentions.{layer}", VIDEO_TRANSFORMER
            if level and layer == layers:
                place = 2 if attends[level] else 1
                yield f"output_blocks.{number}.{place}", f"{up}.upsamplers.0", {"conv": "conv"}
            number += 1


def middle(of: str, block: Leaves) -> Iterator[Module]:
    yield f"{of}.mid.block_1", f"{of}.mid_block.resnets.0", block
    yield f"{of}.mid.attn_1", f"{of}.mid_block.attentions.0", ATTENTION_BLOCK
    yield f"{of}.mid.block_2", f"{of}.mid_block.resnets.1", block


def encoder(layers: int, levels: int) -> Iterator[Module]:
    """Each module of the `Encoder`; `layers` at each level."""
    yield "encoder", "encoder", {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
    for level in range(levels):
        down, ours = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for layer in range(layers):
            yield f"{down}.block.{layer}", f"{ours}.resnets.{layer}", RESNET
        if level != levels - 1:
            yield f"{down}.downsample", f"{ours}.downsamplers.0", {"conv": "conv"}
    yield from middle("encoder", RESNET)


def video_decoder(layers: int, levels: int) -> Iterator[Module]:
    """Each module of `VideoDecoder`, whose levels count from the picture's own size."""
    yield "decoder", "decoder", {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
    yield "decoder.conv_out", "decoder", {"time_mix_conv": "time_conv_out"}
    yield from middle("decoder", VIDEO_RESNET)
    for level in range(levels):
        up, ours = f"decoder.up.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for layer in range(layers + 1):
            yield f"{up}.block.{layer}", f"{ours}.resnets.{layer}", VIDEO_RESNET
        if level:
            yield f"{up}.upsample", f"{ours}.upsamplers.0", {"conv": "conv"}


def written(tensors: Mapping[str, Tensor], modules: Iterable[Module]) -> dict[str, Tensor]:
    """What these modules have of a component's tensors, under their names there."""
    made: dict[str, Tensor] = {}
    for theirs, ours, leaves in modules:
        for leaf, our_leaf in leaves.items():
            for kind in ("weight", "bias", "mix_factor"):
                here, there = (
                    ".".join(filter(None, (*path, kind))) for path in ((ours, our_leaf), (theirs, leaf))
                )
                if here in tensors:
                    is_convolution = leaves is ATTENTION_BLOCK and tensors[here].ndim == 2
                    made[there] = tensors[here][:, :, None, None] if is_convolution else tensors[here]
    return made


def vision(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's vision tower as open_clip's `VisionTransformer` keeps it: q, k and v in one, the projection turned."""
    layers = "vision_model.encoder.layers"
    numbers = range(count(tower, layers))
    blocks = [(f"transformer.resblocks.{n}", f"{layers}.{n}", VISION_BLOCK) for n in numbers]
    made = {
        "class_embedding": tower["vision_model.embeddings.class_embedding"],
        "positional_embedding": tower["vision_model.embeddings.position_embedding.weight"],
        "proj": tower["visual_projection.weight"].T,
        **written(tower, [("", "vision_model", VISION_AROUND), *blocks]),
    }
    for number in numbers:
        for leaf in ("weight", "bias"):
            rows = [tower[f"{layers}.{number}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            made[f"transformer.resblocks.{number}.attn.in_proj_{leaf}"] = torch.cat(rows)
    return made


def layout(
    unet: Mapping[str, Tensor], tower: Mapping[str, Tensor], vae: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A file of the three components, and what `UNUSED` names."""
    levels = range(count(unet, "down_blocks"))
    attends = [f"down_blocks.{level}.attentions.0.norm.weight" in unet for level in levels]
    layers = count(unet, "down_blocks.0.resnets")
    sizes = (count(vae, "encoder.down_blocks.0.resnets"), count(vae, "encoder.down_blocks"))
    encoding, decoding = written(vae, encoder(*sizes)), written(vae, video_decoder(*sizes))
    quant_conv = {"quant_conv": "quant_conv"}
    read = {
        "model.diffusion_model": written(unet, [("", "", AROUND), *video_unet(layers, attends)]),
        f"{CLIP}.visual": vision(tower),
        "first_stage_model": decoding,
        FIRST_FRAME: encoding | written(vae, [("", "", quant_conv)]),
    }
    of_pictures = {name: one for name, one in decoding.items() if not re.search("time_|mix_factor", name)}
    width = tower["visual_projection.weight"].shape[0]
    sides = {"weight": vae["quant_conv.weight"][:4, :4], "bias": vae["quant_conv.bias"][:4]}
    words = {
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (64, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    unused = {
        "first_stage_model": encoding,
        FIRST_FRAME: of_pictures | {f"post_quant_conv.{leaf}": one for leaf, one in sides.items()},
        CLIP: {name: torch.empty(shape) for name, shape in words.items()},
    }
    return {
        **{f"{stem}.{name}": one.contiguous() for stem, of in read.items() for name, one in of.items()},
        **{
            f"{stem}.{name}": torch.zeros_like(one) for stem, of in unused.items() for name, one in of.items()
        },
    }


def count(tensors: Iterable[str], blocks: str) -> int:
    """How many blocks a list of them has."""
    return len(
        {name.removeprefix(f"{blocks}.").split(".")[0] for name in tensors if name.startswith(f"{blocks}.")}
    )


def original(folder: Path) -> dict[str, Tensor]:
    unet, vae = (load_file(folder / name / "diffusion_pytorch_model.safetensors") for name in ("unet", "vae"))
    return layout(unet, load_file(folder / "image_encoder" / "model.safetensors"), vae)
