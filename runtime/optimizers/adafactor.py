"""Adafactor (Shazeer and Stern 2018), as transformers has it: second moments of matrices in rows and columns.

Not torch's: that one always takes the rate in shares of a weight's size, and a LoRA's B begins at zero.
"""

from __future__ import annotations

import torch
from transformers.optimization import Adafactor

from runtime import plan
from runtime.optimizers import Groups

EPS_SCALE = 1e-3
"""Least root mean square that `scale_parameter` takes a weight to have (the paper's ε₂)."""


def build(groups: Groups, wanted: plan.Adafactor) -> torch.optim.Optimizer:
    """At the plan's rate: `relative_step`, by which it would find its own, is off."""
    return Adafactor(
        groups,
        lr=groups[0]["lr"],  # unused, as each group has its own; without one it would want relative_step
        eps=(wanted.eps, EPS_SCALE),
        clip_threshold=wanted.clip_threshold,
        decay_rate=-wanted.decay_power,
        beta1=wanted.beta1 or None,
        weight_decay=wanted.weight_decay,
        scale_parameter=wanted.scale_parameter,
        relative_step=False,
    )
