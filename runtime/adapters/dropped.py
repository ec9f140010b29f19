"""A linear map of what dropout leaves of its input, which keeps its input alone for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from runtime.adapters.dropout import SampleDropout


def linear(x: Tensor, weight: Tensor, dropout: SampleDropout) -> Tensor:
    """`F.linear(dropout(x), weight)`: (N, …, in) -> (N, …, out)."""
    if not dropout.draws:
        return F.linear(x, weight)
    out: Tensor = _Dropped.apply(x, weight, dropout, tuple(dropout.keys))
    return out


class _Dropped(torch.autograd.Function):
    """Autograd would keep the mask and what it leaves, each of the input's size. The mask is a function of its keys:
    it is drawn again, and the input is there anyway, as the frozen layers beside it were given the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dropout: SampleDropout, keys: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dropout, ctx.keys = dropout, keys
        return F.linear(dropout.mask(x, keys).mul_(x), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        mask = ctx.dropout.mask(x, ctx.keys)
        of_x = torch.mul(gradient @ weight, mask) if ctx.needs_input_grad[0] else None
        left = mask.mul_(x).flatten(0, -2)
        return of_x, gradient.flatten(0, -2).T @ left, None, None
