"""The trained autoencoder, rescaled to SD 1.x's latent scale, and the latents of all pictures."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from train_vae import to_signed

# Stable Diffusion 1.x's scaling factor. Files in SD's original layout don't carry it, so ours must be the same.
SCALING_FACTOR = 0.18215


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: np.ndarray, batch: int = 64) -> torch.Tensor:
    """The posterior's mean for uint8 (n, 64, 64, 3) pictures: float (n, 4, 16, 16), not yet scaled."""
    pictures = to_signed(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([vae.encode(part).latent_dist.mean.float() for part in pictures.split(batch)])


@torch.no_grad()
def rescale(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Make each latent channel zero-mean with std 1 / SCALING_FACTOR over `latents`, without changing a picture.

    The change goes into the two 1x1 convolutions beside the latent: the encoder's last (mean and log variance)
    and the decoder's first. A white ground gives raw latents a strong mean, which costs a sampler that starts
    from zero-mean noise its colours.
    """
    mean = latents.mean(dim=(0, 2, 3))
    gain = 1 / (SCALING_FACTOR * latents.std(dim=(0, 2, 3)))
    n = len(mean)
    last, first = vae.quant_conv, vae.post_quant_conv
    first.bias += first.weight[:, :, 0, 0] @ mean
    first.weight /= gain.view(1, n, 1, 1)
    last.bias[:n] = (last.bias[:n] - mean) * gain
    last.weight[:n] *= gain.view(n, 1, 1, 1)
    last.bias[n:] += 2 * gain.log()
    vae.register_to_config(scaling_factor=SCALING_FACTOR)
