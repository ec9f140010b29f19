"""A diffusers folder of Z-Image written as one file with everything, as ComfyUI saves a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.single_files import parts

BESIDE = ("tokenizer",)
APART = {
    "transformer": "model.diffusion_model.",
    "text_encoder": "text_encoders.qwen3_4b.transformer.",
    "vae": "vae.",
}

NAMES = {
    "all_x_embedder.2-1.": "x_embedder.",
    "all_final_layer.2-1.": "final_layer.",
    ".attention.to_out.0.": ".attention.out.",
    ".attention.norm_q.": ".attention.q_norm.",
    ".attention.norm_k.": ".attention.k_norm.",
}


def transformer(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's tensors under the publisher's names, q, k and v in one."""
    made = {}
    for name, tensor in ours.items():
        if ".attention.to_q." in name:
            rows = [ours[name.replace("to_q", f"to_{part}")] for part in "qkv"]
            made[name.replace("to_q", "qkv")] = torch.cat(rows)
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            for here, there in NAMES.items():
                name = name.replace(here, there)
            made[name] = tensor
    return made


def original(folder: Path) -> dict[str, Tensor]:
    ours = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    return {
        **{f"model.diffusion_model.{name}": tensor for name, tensor in transformer(ours).items()},
        **{f"text_encoders.qwen3_4b.transformer.model.{name}": tensor for name, tensor in text.items()},
        **parts.vae(folder, "vae."),
    }
