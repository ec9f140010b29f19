"""Latents as a transformer takes them: a token for each square of 2 × 2."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

SIDE = 2


def packed(latents: Tensor) -> Tensor:
    """(N, C, 2 rows, 2 columns) -> (N, rows · columns, 4 C)."""
    return F.pixel_unshuffle(latents, SIDE).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The way back from `packed`."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), SIDE)
