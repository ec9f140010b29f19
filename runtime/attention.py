"""Attention in slices of its queries, one after the other, each recomputed in the backward pass.

Where a card has no fused kernel (see `lorac.estimate.attention`), attention holds a matrix of queries × keys for each
head, and again for the backward. A slice holds its rows of it only: every row of softmax(QKᵀ)V stands alone, so the
result is the same up to rounding (Rabe and Staats 2021, arXiv:2112.05682).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint


class Sliced(TorchFunctionMode):
    """While open, `scaled_dot_product_attention` runs in `slices` slices of at least one query."""

    def __init__(self, slices: int) -> None:
        super().__init__()
        self.slices = slices

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return sliced(self.slices, *args, **(kwargs or {}))


def slice_blocks(blocks: Iterable[nn.Module], slices: int) -> None:
    """Have every attention in these blocks run in slices, in their recomputation too. In place."""
    for block in blocks:
        forward = block.forward

        def through_slices(*args: Any, _forward: Callable[..., Any] = forward, **kwargs: Any) -> Any:
            with Sliced(slices):
                return _forward(*args, **kwargs)

        block.forward = through_slices


def sliced(
    slices: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    """`F.scaled_dot_product_attention` of (…, queries, head size), one slice of the queries after the other."""
    length, keys = query.shape[-2], key.shape[-2]
    rows = -(-length // slices)

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return F.scaled_dot_product_attention(q, k, v, mask, dropout_p, **kwargs)

    parts = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        mask = attn_mask
        if is_causal:  # torch aligns the triangle to the upper left: query i sees keys up to i
            seen = torch.arange(keys, device=query.device)
            mask = seen <= torch.arange(start, end, device=query.device).unsqueeze(-1)
        elif mask is not None and mask.shape[-2] == length and length > 1:
            mask = mask[..., start:end, :]
        # Dropout would draw other masks in the recomputation; no family here uses it inside attention.
        parts.append(checkpoint(attend, query[..., start:end, :], key, value, mask, use_reentrant=False))
    return torch.cat(parts, dim=-2)
