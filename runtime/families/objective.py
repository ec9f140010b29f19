"""What every family of pictures does with what its denoiser said: one loss for each sample."""

from __future__ import annotations

from torch import Tensor

from runtime import plan
from runtime.families.protocol import Batch


def error(said: Tensor, wanted: Tensor, batch: Batch, objective: plan.Objective) -> Tensor:
    """How far what was said (N, …) is from what was wanted (N, …): the mean square of each sample, float32 (N,)."""
    return (said.float() - wanted).square().flatten(1).mean(dim=1)
