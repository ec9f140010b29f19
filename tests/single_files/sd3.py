"""A diffusers folder of Stable Diffusion 3 written as one file with everything, as Stability AI publishes it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.single_files import parts

BESIDE = ("tokenizer_3",)
APART = {
    "transformer": "model.diffusion_model.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
    "text_encoder_3": "text_encoders.t5xxl.transformer.",
    "vae": "first_stage_model.",
}

AROUND = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
}
FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def transformer(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's tensors under Stability AI's names."""
    layers = {int(name.split(".")[1]) for name in ours if name.startswith("transformer_blocks.")}
    made = {"pos_embed": ours["pos_embed.pos_embed"]}
    for leaf in ("weight", "bias"):
        made |= {f"{name}.{leaf}": ours[f"{module}.{leaf}"] for module, name in AROUND.items()}
        made[f"final_layer.adaLN_modulation.1.{leaf}"] = swapped(ours[f"norm_out.linear.{leaf}"])
        for number in layers:
            here, there = f"transformer_blocks.{number}", f"joint_blocks.{number}"
            for module, name in BLOCK.items():
                if f"{here}.{module}.{leaf}" in ours:
                    made[f"{there}.{name}.{leaf}"] = ours[f"{here}.{module}.{leaf}"]
            for name, modules in FUSED.items():
                if f"{here}.{modules[0]}.{leaf}" in ours:
                    made[f"{there}.{name}.{leaf}"] = torch.cat([ours[f"{here}.{m}.{leaf}"] for m in modules])
        # The last block's caption stream ends there: its modulation has a shift and a scale alone.
        last = f"joint_blocks.{max(layers)}.context_block.adaLN_modulation.1.{leaf}"
        made[last] = swapped(made[last])
    return made


def swapped(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def original(folder: Path) -> dict[str, Tensor]:
    ours = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return {
        **{f"model.diffusion_model.{name}": tensor for name, tensor in transformer(ours).items()},
        **parts.vae(folder, "first_stage_model."),
        **parts.clip(folder / "text_encoder", "text_encoders.clip_l.transformer."),
        **parts.clip(folder / "text_encoder_2", "text_encoders.clip_g.transformer."),
        **parts.t5(folder / "text_encoder_3"),
    }
