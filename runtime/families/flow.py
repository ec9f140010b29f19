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
from runtime.families import patches
from runtime.families.protocol import Architecture, Batch

Line = Mapping[str, Any]
"""On what the shift's logarithm grows with the picture's tokens, in the words of a scheduler's config."""

BY_SIZE: Line = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
}
"""As Flux.1's scheduler has it."""


def prediction_type(architecture: Architecture) -> plan.PredictionType:
    return "flow"


def draw(item: Batch, generator: Generator, objective: plan.Objective, line: Line = BY_SIZE) -> Batch:
    """One sample's randomness: noise and posterior noise like its latents (C, h, w), and `sigma`, a scalar in (0, 1).

    The same numbers are drawn whatever the objective, so that switching one term on moves nothing else.
    """
    latent = item["latent_mean"]
    uniform = torch.rand((), generator=generator)
    normal = torch.randn((), generator=generator)
    noise = torch.randn(latent.shape, generator=generator)
    posterior = torch.randn(latent.shape, generator=generator)
    offset = torch.randn((latent.shape[0], *(1,) * (latent.dim() - 1)), generator=generator)
    at = normal.sigmoid() if objective.timesteps == "logit_normal" else uniform
    tokens = latent[0].numel() // patches.SIDE**2
    sigma = shifted(at, objective.timestep_shift or shift(tokens, line))
    return {
        "sigma": sigma,
        "posterior": posterior,
        **objectives.shaped(noise + objective.noise_offset * offset, generator, objective),
        **objectives.threshold(sigma, objective),
    }


def shift(tokens: int, line: Line) -> float:
    """How much later than drawn the time of a picture of so many tokens is taken where the plan leaves it to the size:
    `calculate_shift` of diffusers' pipelines."""
    few, many = line["base_image_seq_len"], line["max_image_seq_len"]
    low, high = line["base_shift"], line["max_shift"]
    return math.exp(low + (high - low) / (many - few) * (tokens - few))


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
