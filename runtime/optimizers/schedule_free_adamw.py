"""Schedule-free AdamW (Defazio et al. 2024): a running average of the weights takes the place of a decaying rate.

The masters hold y, where gradients are taken; the average x, which is the result, comes of y and the state's z.
"""

from __future__ import annotations

import torch
from pytorch_optimizer import ScheduleFreeAdamW

from runtime import plan
from runtime.optimizers import Groups


def build(groups: Groups, wanted: plan.ScheduleFreeAdamW) -> torch.optim.Optimizer:
    """Warm-up is in the rates that it is given; its own has no steps."""
    return ScheduleFreeAdamW(
        groups,
        betas=(wanted.beta1, wanted.beta2),
        eps=wanted.eps,
        weight_decay=wanted.weight_decay,
        foreach=True,
    )
