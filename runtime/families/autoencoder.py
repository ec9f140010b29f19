"""What families with a KL autoencoder of pictures (Kingma and Welling 2014; Rombach et al. 2022) do with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runtime import plan
from runtime.families.protocol import Batch, Modules

PUBLISHED: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
"""What those of Stable Diffusion 1 to 3, XL and Flux.1 have, whatever their latents' channels."""


def encode_picture(modules: Modules, pixels: Tensor) -> Batch:
    """Pixels (N, 3, H, W) in [-1, 1] -> mean and standard deviation of their latents, (N, C, H / f, W / f)."""
    posterior = modules["vae"].encode(pixels).latent_dist
    return {"latent_mean": posterior.mean, "latent_std": posterior.std}


def drawn(batch: Batch) -> Tensor:
    """Latents of each picture's distribution, by the batch's `posterior` noise: (N, …)."""
    return batch["latent_mean"] + batch["latent_std"] * batch["posterior"]


def decode(modules: Modules, latents: Tensor) -> Tensor:
    """Latents as `encode_picture` has their means -> pixels."""
    vae = modules["vae"]
    pixels: Tensor = vae.decode(latents.to(vae.dtype)).sample
    return pixels


def example(config: Mapping[str, Any], size: int, shape: plan.Shape) -> Batch:
    """What a batch has in a latent's shape: the latents' distribution and the noise."""
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    width, height = shape
    dims = (size, config["latent_channels"], height // factor, width // factor)
    return {name: torch.empty(dims) for name in ("latent_mean", "latent_std", "noise", "posterior")}
