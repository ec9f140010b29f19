"""Dropout whose mask is a function of (seed, step, sample, module) alone.

Neither the micro-batch, nor recomputation of a checkpointed block, nor a resumed run changes what a sample sees, and
no generator's state has to be saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor, nn


class SampleDropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014) over (N, …), masked per sample by a keyed generator."""

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p = p
        self.salt = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
        self.keys: Sequence[int] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.keys:
            return x
        generator = torch.Generator(x.device if x.device.type == "cuda" else "cpu")
        keep = torch.empty_like(x)
        for row, key in zip(keep, self.keys, strict=True):
            generator.manual_seed((key ^ self.salt) & 0x7FFF_FFFF_FFFF_FFFF)
            row.bernoulli_(1 - self.p, generator=generator)
        return x * keep.div_(1 - self.p)


def aim(dropouts: Iterable[nn.Module], keys: Sequence[int]) -> None:
    """Say which samples the next forward pass holds: one key each, in batch order. No keys: no dropout."""
    for module in dropouts:
        assert isinstance(module, SampleDropout)
        module.keys = keys
