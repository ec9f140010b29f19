"""A diffusers folder of SD 1.x written as one file in the original layout, as people download it."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RESNET = [
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]


def unet_name(name: str) -> str:
    """diffusers -> CompVis, for three down levels with attention and one without, two layers each."""
    for ours, theirs in {
        "conv_in.": "input_blocks.0.0.",
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
    }.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    if ".resnets." in name:
        for ours, theirs in RESNET:
            name = re.sub(ours, theirs, name)
    name = re.sub(r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", name)
    name = re.sub(r"^mid_block\.attentions\.0", "middle_block.1", name)
    name = re.sub(
        r"^down_blocks\.(\d)\.resnets\.(\d)",
        lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0",
        name,
    )
    name = re.sub(
        r"^down_blocks\.(\d)\.attentions\.(\d)",
        lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1",
        name,
    )
    name = re.sub(
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op", name
    )
    name = re.sub(
        r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0", name
    )
    name = re.sub(
        r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1", name
    )
    # The first up level has no attention, so its upsampler takes place 1 of the block.
    return re.sub(
        r"^up_blocks\.(\d)\.upsamplers\.0\.conv",
        lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{1 if m[1] == '0' else 2}.conv",
        name,
    )


def vae_name(name: str, levels: int) -> str:
    """diffusers -> CompVis."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.")
    for ours, theirs in {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }.items():
        name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    up = lambda m: f"decoder.up.{levels - 1 - int(m[1])}"  # noqa: E731
    name = re.sub(r"decoder\.up_blocks\.(\d)(?=\.resnets)", up, name)
    name = re.sub(r"decoder\.up_blocks\.(\d)(?=\.upsamplers)", up, name)
    return name.replace(".upsamplers.0", ".upsample").replace(".resnets.", ".block.")


def denoiser_and_vae(folder: Path) -> dict[str, Tensor]:
    """The UNet's and the autoencoder's tensors under their original names."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    levels = len({name.split(".")[2] for name in vae if name.startswith("encoder.down_blocks")})
    made = {f"model.diffusion_model.{unet_name(name)}": tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        theirs = vae_name(name, levels)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", theirs):
            tensor = tensor[:, :, None, None]
        made[f"first_stage_model.{theirs}"] = tensor.contiguous()
    return made


def original(folder: Path) -> dict[str, Tensor]:
    """The tensors of a diffusers folder under their original names."""
    made = denoiser_and_vae(folder)
    text = load_file(folder / "text_encoder" / "model.safetensors")
    for name, tensor in text.items():
        made[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    length = made["cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"].shape[0]
    made["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(length)[None]
    return made


def write_single_file(folder: Path, path: Path) -> Path:
    """A `.safetensors` in the original layout, or a `.ckpt` as pytorch-lightning wrote SD's: callbacks and all."""
    tensors = original(folder)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "global_step": 840000, "callbacks": {Callback: Callback()}}, path)
    return path


class Callback:
    """Stands for pytorch-lightning's ModelCheckpoint: a class that `weights_only` refuses."""

    def __init__(self) -> None:
        self.best_model_score = 0.5
