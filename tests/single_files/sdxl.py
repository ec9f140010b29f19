"""A diffusers folder of SDXL written as one file in the layout of Stability-AI/generative-models."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests.single_files import open_clip, sd1

OTHERS = {
    "output_blocks.2.1.conv.": "output_blocks.2.2.conv.",  # SDXL's first level up has attention
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
}


def original(folder: Path) -> dict[str, Tensor]:
    """The tensors of a diffusers folder under their original names."""
    made = {}
    for name, tensor in sd1.denoiser_and_vae(folder).items():
        for other, theirs in OTHERS.items():
            name = name.replace(f"model.diffusion_model.{other}", f"model.diffusion_model.{theirs}")
        made[name] = tensor
    clip = load_file(folder / "text_encoder" / "model.safetensors")
    for name, tensor in clip.items():
        made[f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    big_g = load_file(folder / "text_encoder_2" / "model.safetensors")
    return made | open_clip.original(big_g, "conditioner.embedders.1.model.")
