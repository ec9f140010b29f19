"""Text encoders and autoencoder as files with everything hold them beside a transformer."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests.single_files.sd1 import vae_name


def vae(folder: Path, prefix: str) -> dict[str, Tensor]:
    tensors = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    levels = len({name.split(".")[2] for name in tensors if name.startswith("encoder.down_blocks")})
    made = {}
    for name, tensor in tensors.items():
        theirs = vae_name(name, levels)
        is_convolution = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", theirs)
        made[prefix + theirs] = (tensor[:, :, None, None] if is_convolution else tensor).contiguous()
    return made


def clip(folder: Path, prefix: str) -> dict[str, Tensor]:
    """A CLIP text tower, with its `text_model` level, which transformers >= 5.6 writes only beside a projection."""
    tensors = load_file(folder / "model.safetensors")
    return {
        prefix
        + (name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"): tensor
        for name, tensor in tensors.items()
    }


def t5(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in tensors.items()}
