"""What the rectified-flow families share (Liu et al. 2022; Esser et al. 2024, arXiv:2403.03206).

The way from a picture x₀ to noise ε is a straight line, x_t = (1 - t) x₀ + t ε with t in (0, 1), and what the denoiser
says is its direction, ε - x₀. diffusers calls t `sigma`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from runtime import plan
from runtime.families import objective as objectives
from runtime.families.protocol import Batch

BASE_TOKENS, BASE_SHIFT = 256, 0.5
MOST_TOKENS, MOST_SHIFT = 4096, 1.15
"""The line on which the shift's logarithm grows with the picture's tokens: `calculate_shift` of diffusers' pipelines
(base_image_seq_len, base_shift, max_image_seq_len, max_shift), as Flux.1's scheduler has it."""


def draw(latent: Tensor, generator: Generator, tokens: int, objective: plan.Objective) -> Batch:
    """One sample's randomness: noise and posterior noise like `latent` (C, …), and `sigma`, a scalar in (0, 1).

    `tokens` is how many the denoiser sees of the picture. The same numbers are drawn whatever the objective, so that
    switching one term on moves nothing else.
    """
    uniform = torch.rand((), generator=generator)
    normal = torch.randn((), generator=generator)
    noise = torch.randn(latent.shape, generator=generator)
    posterior = torch.randn(latent.shape, generator=generator)
    offset = torch.randn((latent.shape[0], *(1,) * (latent.dim() - 1)), generator=generator)
    at = normal.sigmoid() if objective.timesteps == "logit_normal" else uniform
    sigma = shifted(at, shift(tokens, objective))
    return {
        "sigma": sigma,
        "posterior": posterior,
        **objectives.shaped(noise + objective.noise_offset * offset, generator, objective),
        **objectives.threshold(sigma, objective),
    }


def shift(tokens: int, objective: plan.Objective) -> float:
    """How much later than drawn a time is taken: as the plan says, or by the picture's size where it says 0."""
    if objective.timestep_shift:
        return objective.timestep_shift
    slope = (MOST_SHIFT - BASE_SHIFT) / (MOST_TOKENS - BASE_TOKENS)
    return math.exp(BASE_SHIFT + slope * (tokens - BASE_TOKENS))


def shifted(sigma: Tensor, by: float) -> Tensor:
    """s t / (1 + (s - 1) t): more noise for larger pictures (Esser et al. 2024, equation 23)."""
    return by * sigma / (1 + (by - 1) * sigma)


def scaled(latents: Tensor, vae: Mapping[str, Any]) -> Tensor:
    """An autoencoder's latents as the denoiser knows them: about their mean, at unit variance."""
    return (latents - vae["shift_factor"]) * vae["scaling_factor"]


def unscaled(latents: Tensor, vae: Mapping[str, Any]) -> Tensor:
    """The way back from `scaled`."""
    return latents / vae["scaling_factor"] + vae["shift_factor"]


def noisy(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t = (1 - t) x₀ + t ε, with t (`sigma`) of shape (N,)."""
    sigma = sigma.view(-1, *(1,) * (latents.dim() - 1))
    return (1 - sigma) * latents + sigma * noise


def target(latents: Tensor, noise: Tensor) -> Tensor:
    """What the denoiser should say: ε - x₀."""
    return noise - latents
