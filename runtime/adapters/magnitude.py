"""DoRA's magnitudes (Liu et al. 2024, arXiv:2402.09353): a weight's rows have lengths m of their own to learn.

The layer computes m · (W + s·B·A) / ‖W + s·B·A‖, row by row, where the norm takes no gradient (section 4.3). It takes
the place of peft's own in its layers: there norm and magnitude are in the base's dtype, and in sixteen bits a
magnitude could only move in steps of half a percent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Magnitude(nn.Module):
    """`weight` is m, (out,), float32 whatever the base's dtype."""

    def __init__(self, features: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, dtype=torch.float32, device=device))

    def begin(self, base: Any) -> None:
        """Begin at the lengths of the base's rows, where the layer computes what the base does."""
        with torch.no_grad():
            self.weight.copy_(lengths(base.weight))

    def forward(
        self,
        x: Tensor,
        *,
        lora_A: nn.Linear,
        lora_B: nn.Linear,
        scaling: float,
        base_layer: Any,
        base_result: Tensor | None = None,
        adapter_name: str = "",
    ) -> Tensor:
        """What is added to the base's output, (…, out), as peft calls it: `base_result` is the base's for this x."""
        with torch.no_grad():
            merged = torch.addmm(base_layer.weight, lora_B.weight, lora_A.weight, alpha=scaling)
            norm = lengths(merged)
            del merged
        ratio = self.weight / norm
        plain = base_layer(x) if base_result is None else base_result
        if base_layer.bias is not None:
            plain = plain - base_layer.bias
        # The difference is rounded, not the ratio: near 1, sixteen bits have nothing for what was learned.
        return (ratio - 1).to(x.dtype) * plain + (ratio * scaling).to(x.dtype) * lora_B(lora_A(x))


def lengths(weight: Tensor) -> Tensor:
    """The length of each row of (out, in): (out,), float32."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)
