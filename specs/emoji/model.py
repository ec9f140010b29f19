"""Stable Diffusion 1.x's own architecture with narrower channels: every LoRA key of SD 1.x is a real one here."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from transformers import CLIPTextConfig, CLIPTextModel

TEXT_WIDTH = 128
CONTEXT = 77

UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [64, 96, 128, 96],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "cross_attention_dim": TEXT_WIDTH,
}

# As runwayml/stable-diffusion-v1-5's scheduler_config.json.
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def make_unet() -> UNet2DConditionModel:
    """A UNet with fresh weights."""
    return UNet2DConditionModel(**UNET)


def make_text_encoder(vocabulary: int) -> CLIPTextModel:
    """A CLIP text encoder with fresh weights and `vocabulary` token rows, CLIP's start and end tokens the last."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def noise_schedule() -> torch.Tensor:
    """SD 1.x's cumulative alphas, float (1000,)."""
    return DDPMScheduler(**NOISE).alphas_cumprod


class TrainingAttention:
    """Attention made cheap for training on a CPU: in float32, and to a quarter of the picture's places.

    PyTorch's bf16 kernel is several times slower than its float32 one at heads this narrow. And at 16x16 half
    of a step would go into self-attention, so one key is drawn in each 2x2 cell, anew at each call: neighbours
    say nearly the same (as in ToDo, Smith et al. 2024), and drawing anew keeps it fair to all places.
    """

    CROWDED = 256

    def __init__(self) -> None:
        self.thin = True

    def __call__(
        self,
        attention: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """(batch, tokens, channels) to the same shape, attending to the captions where they're given."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.thin and context.shape[1] >= self.CROWDED:
            context = context[:, one_in_each_cell(context.shape[1])]

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(2, (attention.heads, -1)).transpose(1, 2).float()

        query = heads(attention.to_q(hidden_states))
        key, value = heads(attention.to_k(context)), heads(attention.to_v(context))
        with torch.autocast("cpu", enabled=False):
            mixed = F.scaled_dot_product_attention(query, key, value)
        return attention.to_out[1](attention.to_out[0](mixed.transpose(1, 2).flatten(2)))


def one_in_each_cell(places: int) -> torch.Tensor:
    """Indices into a square picture's rows, one at random for each 2x2 cell: int64 (places / 4,)."""
    half = math.isqrt(places) // 2
    down, across = torch.randint(0, 2, (2, half, half))
    cell = torch.arange(half)
    return ((2 * cell[:, None] + down) * 2 * half + 2 * cell + across).flatten()
