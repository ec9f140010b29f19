"""A diffusers folder of FLUX.1 written as one file with everything, as ComfyUI's users download it."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.single_files import parts

BESIDE = ("tokenizer_2",)
APART = {
    "transformer": "model.diffusion_model.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.t5xxl.transformer.",
    "vae": "vae.",
}

AROUND = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}


def transformer(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's tensors under BFL's names."""
    made = {}
    for leaf in ("weight", "bias"):
        for module, name in AROUND.items():
            if f"{module}.{leaf}" in ours:
                made[f"{name}.{leaf}"] = ours[f"{module}.{leaf}"]
        scale, shift = ours[f"norm_out.linear.{leaf}"].chunk(2)
        made[f"final_layer.adaLN_modulation.1.{leaf}"] = torch.cat([shift, scale])
        for number in _numbers(ours, "transformer_blocks"):
            here, there = f"transformer_blocks.{number}", f"double_blocks.{number}"
            for module, name in DOUBLE.items():
                made[f"{there}.{name}.{leaf}"] = ours[f"{here}.{module}.{leaf}"]
            for stream, q, k, v in (("img", "to_q", "to_k", "to_v"), ("txt", *ADDED)):
                parts_ = [ours[f"{here}.attn.{one}.{leaf}"] for one in (q, k, v)]
                made[f"{there}.{stream}_attn.qkv.{leaf}"] = torch.cat(parts_)
        for number in _numbers(ours, "single_transformer_blocks"):
            here, there = f"single_transformer_blocks.{number}", f"single_blocks.{number}"
            for module, name in SINGLE.items():
                made[f"{there}.{name}.{leaf}"] = ours[f"{here}.{module}.{leaf}"]
            fused = [
                ours[f"{here}.{one}.{leaf}"] for one in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            ]
            made[f"{there}.linear1.{leaf}"] = torch.cat(fused)
    for name, tensor in ours.items():
        found = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.attn\.norm_(added_)?([qk])\.weight", name)
        if found:
            single, number, added, which = found.groups()
            kind = "query_norm" if which == "q" else "key_norm"
            stem = "norm" if single else f"{'txt' if added else 'img'}_attn.norm"
            made[f"{'single' if single else 'double'}_blocks.{number}.{stem}.{kind}.scale"] = tensor
    return made


ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def _numbers(tensors: dict[str, Tensor], kind: str) -> set[str]:
    return {name.split(".")[1] for name in tensors if name.startswith(f"{kind}.")}


def original(folder: Path) -> dict[str, Tensor]:
    ours = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return {
        **{f"model.diffusion_model.{name}": tensor for name, tensor in transformer(ours).items()},
        **parts.vae(folder, "vae."),
        **parts.clip(folder / "text_encoder", "text_encoders.clip_l.transformer."),
        **parts.t5(folder / "text_encoder_2"),
    }
