"""What the discrete-time diffusion families share: the noise schedule, targets, weights, randomness of a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from runtime import plan
from runtime.families import objective as objectives
from runtime.families.protocol import Batch

LEAST_ALPHA = 2**-24
"""ᾱ where a schedule ends in pure noise: fp16's least number, as in diffusers' samplers, so that no 0 is divided by."""


def alphas_cumprod(scheduler: dict[str, Any], device: torch.device | None = None) -> Tensor:
    """ᾱ_t of the "scaled_linear" schedule, float32 (T,): Rombach et al. 2022, SD's `linear_start`, `linear_end`.

    Where the scheduler's config asks for it, √ᾱ is shifted and scaled so that it keeps its start and ends in zero
    (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
    """
    start, end, count = scheduler["beta_start"], scheduler["beta_end"], scheduler["num_train_timesteps"]
    betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32, device=device) ** 2
    alphas = torch.cumprod(1.0 - betas, dim=0)
    if not scheduler.get(plan.ZERO_SNR):
        return alphas
    roots = alphas.sqrt()
    rescaled = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return rescaled.square().clamp(min=LEAST_ALPHA)


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
        "posterior": posterior,
        **objectives.shaped(noise + objective.noise_offset * offset, generator, objective),
        **objectives.threshold(timestep / timesteps, objective),
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


def loss(
    said: Tensor,
    latents: Tensor,
    batch: Batch,
    alpha: Tensor,
    prediction_type: plan.PredictionType,
    objective: plan.Objective,
) -> Tensor:
    """The loss of each sample (N,): what was said of noisy latents (N, C, h, w), with all that goes by ᾱ_t (N,)."""
    wanted = target(latents, batch["noise"], alpha, prediction_type)
    batch = dict(batch)
    if "perturbation" in batch:  # as much of the target as it makes
        none = torch.zeros_like(latents)
        batch["perturbation"] = target(none, batch["perturbation"], alpha, prediction_type)
    if objective.loss_type in plan.WITH_THRESHOLD and objective.huber_schedule == "snr":
        batch["threshold"] = snr_threshold(alpha, objective.huber_c)
    error = objectives.error(said, wanted, batch, objective)
    return error * weight(alpha, prediction_type, objective.snr_gamma, objective.debiased)


def snr_threshold(alpha: Tensor, c: float) -> Tensor:
    """Where each sample's loss (N,) changes from square to linear: c + (1 - c) / (1 + s)², with s² = 1 / SNR.

    Khrapov et al. 2024, arXiv:2403.16728; `get_huber_threshold_if_needed` of sd-scripts.
    """
    noise_to_signal = ((1 - alpha) / alpha).sqrt()
    return (1 - c) / (1 + noise_to_signal).square() + c


LARGEST_SNR = 1000.0
"""What sd-scripts takes of the SNR at most where it divides by it (`apply_debiased_estimation`)."""


def weight(
    alpha: Tensor, prediction_type: plan.PredictionType, snr_gamma: float, debiased: bool = False
) -> Tensor:
    """The loss weight of each sample (N,): min-SNR gamma (Hang et al. 2023), or 1 where `snr_gamma` is 0.

    Debiased, it is 1 / √SNR for ε and 1 / (SNR + 1) for v (Yu et al. 2023, arXiv:2310.08442, as sd-scripts has it).
    """
    if debiased:
        snr = (alpha / (1 - alpha)).clamp(max=LARGEST_SNR)
        return 1 / (snr + 1) if prediction_type == "v_prediction" else snr.rsqrt()
    if snr_gamma == 0:
        return torch.ones_like(alpha)
    snr = alpha / (1 - alpha)
    clipped = snr.clamp(max=snr_gamma)
    return clipped / (snr + 1) if prediction_type == "v_prediction" else clipped / snr
