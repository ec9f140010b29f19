"""What the discrete-time diffusion families share: the noise schedule, targets, weights, randomness of a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from runtime import plan
from runtime.families.protocol import Batch


def alphas_cumprod(scheduler: dict[str, Any], device: torch.device | None = None) -> Tensor:
    """ᾱ_t of the "scaled_linear" schedule, float32 (T,): Rombach et al. 2022, SD's `linear_start`, `linear_end`."""
    start, end, count = scheduler["beta_start"], scheduler["beta_end"], scheduler["num_train_timesteps"]
    betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32, device=device) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def draw(latent: Tensor, generator: Generator, timesteps: int, objective: plan.Objective) -> Batch:
    """One sample's randomness: noise and posterior noise like `latent` (C, h, w), and a timestep.

    The same numbers are drawn whatever the objective, so that switching one term on moves nothing else.
    """
    channels = latent.shape[0]
    timestep = torch.randint(timesteps, (), generator=generator)
    noise = torch.randn(latent.shape, generator=generator)
    posterior = torch.randn(latent.shape, generator=generator)
    offset = torch.randn((channels, 1, 1), generator=generator)
    return {
        "timestep": timestep,
        "noise": noise + objective.noise_offset * offset,
        "posterior": posterior,
    }


def noisy(latents: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """x_t = √ᾱ x_0 + √(1-ᾱ) ε, with ᾱ of shape (N,)."""
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def target(latents: Tensor, noise: Tensor, alpha: Tensor, prediction_type: plan.PredictionType) -> Tensor:
    """What the denoiser should say: ε, or v = √ᾱ ε - √(1-ᾱ) x_0 (Salimans and Ho 2022)."""
    if prediction_type == "epsilon":
        return noise
    alpha = alpha.view(-1, 1, 1, 1)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def weight(alpha: Tensor, prediction_type: plan.PredictionType, snr_gamma: float) -> Tensor:
    """The loss weight of each sample (N,): min-SNR gamma (Hang et al. 2023), or 1 where `snr_gamma` is 0."""
    if snr_gamma == 0:
        return torch.ones_like(alpha)
    snr = alpha / (1 - alpha)
    clipped = snr.clamp(max=snr_gamma)
    return clipped / (snr + 1) if prediction_type == "v_prediction" else clipped / snr
