"""Lion (Chen et al. 2023): the sign of a momentum, which is all its state."""

from __future__ import annotations

import torch
from pytorch_optimizer import Lion

from runtime import plan
from runtime.optimizers import Groups


def build(groups: Groups, wanted: plan.Lion) -> torch.optim.Optimizer:
    betas = (wanted.beta1, wanted.beta2)
    return Lion(groups, betas=betas, weight_decay=wanted.weight_decay, foreach=True)
