"""Noise on token embeddings while training (NEFTune, Jain et al. 2023, arXiv:2310.05914).

It is a function of (seed, step, sample) alone, as `runtime.adapters.dropout`'s masks are, and of each token's place:
how far a sequence is padded, and so the micro-batch, changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from runtime.adapters.dropout import generator_of, salt_of
from runtime.families.protocol import Batch


class EmbeddingNoise:
    """A forward hook of an embedding: adds uniform noise in ±alpha / √(L · d) to its output (N, T, d).

    L is the length in tokens of the sample that a token is in, by itself or packed with others; d the embedding's
    width. `length` is the longest sequence of the plan.
    """

    def __init__(self, alpha: float, length: int) -> None:
        self.alpha, self.length = alpha, length
        self.salt = salt_of("embedding noise")
        self.keys: Sequence[int] = ()
        self.tokens = torch.empty(0)

    def aim(self, keys: Sequence[int], batch: Batch) -> None:
        """The keys of the samples that come next, and how long each token's sample is, by its positions."""
        self.keys = keys
        if keys:
            self.tokens = lengths(batch["position_ids"])

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not module.training or not self.keys:
            return output
        tokens, width = output.shape[1:]
        noise = torch.empty_like(output)
        for row, key in zip(noise, self.keys, strict=True):
            # Drawn for the longest sequence: a card's generator gives other numbers for another count of them.
            drawn = torch.empty(max(self.length, tokens), width, dtype=torch.float32, device=output.device)
            row.copy_(drawn.uniform_(-1, 1, generator=generator_of(key, self.salt, output.device))[:tokens])
        scale = self.alpha / math.sqrt(width) * self.tokens.rsqrt().unsqueeze(-1)
        return output + noise.mul_(scale)


def lengths(positions: Tensor) -> Tensor:
    """How many tokens each token's sample has, (N, T) float32: positions (N, T) begin again at 0 with each sample."""
    count = positions.shape[1]
    places = torch.arange(count, device=positions.device).expand_as(positions)
    starts = torch.where(positions == 0, places, count)
    at_or_after = starts.flip(1).cummin(1).values.flip(1)
    end = nn.functional.pad(at_or_after[:, 1:], (0, 1), value=count)
    return (end - (places - positions)).float()


def put_on(embedding: nn.Module, alpha: float, length: int) -> EmbeddingNoise:
    """Put noise on the embedding's output, in place."""
    noise = EmbeddingNoise(alpha, length)
    embedding.register_forward_hook(noise)
    return noise
