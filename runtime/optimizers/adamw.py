"""AdamW (Loshchilov and Hutter 2019): torch's own, or with its moments in 8 bits."""

from __future__ import annotations

import torch

from runtime import plan
from runtime.errors import PlanError, Problem
from runtime.optimizers import Groups
from runtime.optimizers.adamw8bit import AdamW8bit


def build(groups: Groups, wanted: plan.AdamW) -> torch.optim.Optimizer:
    """Raises PlanError where `state_bits` is neither 8 nor 32."""
    if wanted.state_bits not in (8, 32):
        raise PlanError(Problem("train.optimizer.state_bits", f"must be 8 or 32, got {wanted.state_bits!r}"))
    betas, eps, weight_decay = (wanted.beta1, wanted.beta2), wanted.eps, wanted.weight_decay
    if wanted.state_bits == 8:
        return AdamW8bit(groups, betas=betas, eps=eps, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, betas=betas, eps=eps, weight_decay=weight_decay, foreach=True)
