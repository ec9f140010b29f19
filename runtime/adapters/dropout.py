"""Dropout whose mask is a function of (seed, step, sample, module) alone.

Neither the micro-batch, nor recomputation of a checkpointed block, nor a resumed run changes what a sample sees, and
no generator's state has to be saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor, nn

from runtime.families.protocol import Batch


class Drawn(Protocol):
    """What draws for each sample of a batch."""

    def aim(self, keys: Sequence[int], batch: Batch) -> None:
        """Say which samples the next forward pass holds: one key each, in batch order. No keys: nothing is drawn."""


def aim(drawn: Iterable[Drawn], keys: Sequence[int], batch: Batch) -> None:
    """Aim all of them at the samples of the next forward pass."""
    for one in drawn:
        one.aim(keys, batch)


def salt_of(name: str) -> int:
    """What sets one use of a sample's key apart from the others."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def generator_of(key: int, salt: int, device: torch.device) -> torch.Generator:
    """A generator for one sample and one use, on the device that draws."""
    generator = torch.Generator(device if device.type == "cuda" else "cpu")
    return generator.manual_seed((key ^ salt) & 0x7FFF_FFFF_FFFF_FFFF)


def per_sample(x: Tensor, keys: Sequence[int]) -> Tensor:
    """(samples, …): a mixture's layers are given all samples' tokens end to end."""
    return x if x.shape[0] == len(keys) else x.reshape(len(keys), -1, x.shape[-1])


class SampleDropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014) over (N, …), masked per sample by a keyed generator.

    Where x is of tokens, (N, T, d) or (N · T, d), a mask is drawn for `length` of them, the plan's longest sequence, so
    that how far a sample is padded changes nothing: a card's generator gives other numbers for another count.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p = p
        self.salt = salt_of(name)
        self.keys: Sequence[int] = ()
        self.length = 0

    def aim(self, keys: Sequence[int], batch: Batch) -> None:
        self.keys = keys

    @property
    def draws(self) -> bool:
        """Whether anything is dropped now."""
        return self.training and bool(self.p and self.keys)

    def mask(self, x: Tensor, keys: Sequence[int]) -> Tensor:
        """What `x` is multiplied by: 0, or 1 / (1 - p)."""
        keep = torch.empty_like(per_sample(x, keys))
        count, *inner = keep.shape[1:]
        for row, key in zip(keep, keys, strict=True):
            drawn = torch.empty(max(count, self.length), *inner, dtype=x.dtype, device=x.device)
            row.copy_(drawn.bernoulli_(1 - self.p, generator=generator_of(key, self.salt, x.device))[:count])
        return keep.div_(1 - self.p).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x, self.keys) if self.draws else x


class ChannelDropout(nn.Module):
    """Drops channels of a sample with probability `rank`, and all of them with `whole`: rank and module dropout.

    Over LoRA's inner dimension what stays is `scaled` by 1 / (1 - rank), as in sd-scripts (networks/lora.py); over
    the rows of a change of weight it is not, as in LyCORIS (modules/loha.py). Module dropout never scales.
    """

    def __init__(self, rank: float, whole: float, name: str, dimension: int, scaled: bool) -> None:
        super().__init__()
        self.rank, self.whole, self.dimension = rank, whole, dimension
        self.kept = 1 / (1 - rank) if scaled else 1.0
        self.salt = salt_of(f"{name}/channels")
        self.keys: Sequence[int] = ()

    def aim(self, keys: Sequence[int], batch: Batch) -> None:
        self.keys = keys

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.keys:
            return x
        samples = per_sample(x, self.keys)
        keep = x.new_empty(len(samples), samples.shape[self.dimension])
        for row, key in zip(keep, self.keys, strict=True):
            generator = generator_of(key, self.salt, x.device)
            row.bernoulli_(1 - self.rank, generator=generator).mul_(self.kept)
            row.mul_(torch.empty_like(row[:1]).bernoulli_(1 - self.whole, generator=generator))
        shape = [1] * samples.ndim
        shape[0], shape[self.dimension] = keep.shape
        return (samples * keep.view(shape)).view_as(x)
