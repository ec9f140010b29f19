"""Prodigy (Mishchenko and Defazio 2024): AdamW that estimates its own rate from how far the weights have come.

Of pytorch-optimizer: it waits for the device once a step; the authors' own does twice for each tensor.
"""

from __future__ import annotations

import math

import torch
from pytorch_optimizer import Prodigy

from runtime import plan
from runtime.errors import PlanError, Problem
from runtime.optimizers import Groups


def build(groups: Groups, wanted: plan.Prodigy) -> torch.optim.Optimizer:
    """Raises PlanError for several rates: there is one estimate, of all weights together."""
    if len(groups) > 1:
        what = f"Prodigy estimates one rate for all weights, got {len(groups)} rates"
        raise PlanError(Problem("train.optimizer", what, "make the plan again: lorac plan SPEC"))
    return Prodigy(
        groups,
        betas=(wanted.beta1, wanted.beta2),
        eps=wanted.eps,
        weight_decay=wanted.weight_decay,
        d0=wanted.d0,
        d_coef=wanted.d_coef,
        growth_rate=wanted.growth_rate or math.inf,
        bias_correction=wanted.bias_correction,
        safeguard_warmup=wanted.safeguard_warmup,
        foreach=True,
    )
