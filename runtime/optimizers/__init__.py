"""Optimizers and learning-rate curves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from runtime import plan
from runtime.errors import PlanError, Problem
from runtime.optimizers.adamw8bit import AdamW8bit


def build_optimizer(
    wanted: plan.Optimizer, parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """AdamW over named parameters, one group for each learning rate; `base_lr` keeps the undecayed rate.

    Raises PlanError where `state_bits` is neither 8 nor 32.
    """
    if wanted.state_bits not in (8, 32):
        raise PlanError(Problem("train.optimizer.state_bits", f"must be 8 or 32, got {wanted.state_bits!r}"))
    groups = [
        {
            "params": [p for name, p in parameters.items() if rates[name] == rate],
            "lr": rate,
            "base_lr": rate,
        }
        for rate in dict.fromkeys(rates.values())
    ]
    betas, eps, weight_decay = (wanted.beta1, wanted.beta2), wanted.eps, wanted.weight_decay
    if wanted.state_bits == 8:
        return AdamW8bit(groups, betas=betas, eps=eps, weight_decay=weight_decay)
    return torch.optim.AdamW(
        groups,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        foreach=True,  # what CUDA would choose; asked for on every device so that the trace sees the same buffers
    )


def factor(schedule: plan.Schedule, step: int, steps: int) -> float:
    """The learning rate's factor at optimizer step `step` (0-based) of `steps`.

    Linear warm-up from 1/warmup, then constant, linear, cosine (Loshchilov and Hutter 2017) or polynomial to zero.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return (1 - done) ** (schedule.power if schedule.name == "polynomial" else 1.0)
