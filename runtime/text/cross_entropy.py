"""Cross-entropy from hidden states and the head's weight, a chunk of tokens at a time.

The logits of a batch (tokens × vocabulary, in float32 for the softmax and again for its gradient) are the largest
tensors of a language model's step. Here only a chunk's are ever there, and only trained tokens go through the head.

- With a frozen head, as LoRA has, the gradient of the hidden states is made in the forward, while a chunk's logits
  are at hand (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989): the head's matrix product runs twice, not thrice.
- With a trained head the logits are made again in the backward: its gradient mixes tokens, whose weights come later.
- Sums are taken in a fixed order, with no atomics: the same on every run.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.text.packing import IGNORED

CHUNK = 2**25
"""How many logits a chunk may have: 128 MiB of them in float32."""


@attrs.frozen(kw_only=True)
class Targets:
    """What is learned in a batch: for each trained token the place it is predicted from, itself, and its sample.

    All int64 of shape (trained tokens,); `places` are in the flattened (sequences × length) batch. `samples` numbers
    the batch's samples from 0 to `count` - 1.
    """

    places: Tensor
    tokens: Tensor
    samples: Tensor
    count: int

    def to(self, device: torch.device | str) -> Targets:
        """The same on another device."""
        places, tokens, samples = (t.to(device) for t in (self.places, self.tokens, self.samples))
        return Targets(places=places, tokens=tokens, samples=samples, count=self.count)


@attrs.frozen(kw_only=True)
class Head:
    """The last layer of a language model: logits = cap(scale · (hidden · weightᵀ + bias)).

    `weight` is (vocabulary, width), `bias` (vocabulary,). `scale` is Cohere's `logit_scale`, or one over Granite's
    `logits_scaling`. `softcap` bounds logits by softcap · tanh(logits / softcap) (Gemma 2); 0 is off.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0


def targets_of(labels: Tensor, samples: Tensor) -> Targets:
    """The targets of a batch's labels and sample numbers, (sequences, length) each, as `packing` makes them.

    Ask on the CPU, before the batch is moved: how many there are is then known without waiting for a device.
    """
    trained = labels[:, 1:] != IGNORED
    places = torch.arange(labels.numel()).reshape(labels.shape)[:, :-1]
    return Targets(
        places=places[trained],
        tokens=labels[:, 1:][trained],
        samples=samples[:, 1:][trained],
        count=int(samples.max()) + 1,
    )


def loss_sums(hidden: Tensor, head: Head, targets: Targets, chunk: int | None = None) -> Tensor:
    """Each sample's sum of cross-entropies over its trained tokens, of shape (`targets.count`,), in nats.

    `hidden` is (sequences, length, width); the loss is float32, float64 where `hidden` is. `chunk` is how many tokens
    go through the head at once, by default as many as `CHUNK` logits allow.
    """
    flat = hidden.flatten(0, -2)
    chunk = chunk or max(CHUNK // head.weight.shape[0], 1)
    grows = torch.is_grad_enabled()
    losses = _Losses.apply(flat, head.weight, head.bias, head.scale, head.softcap, targets, chunk, grows)
    owned = targets.samples == torch.arange(targets.count, device=losses.device).unsqueeze(-1)
    return torch.where(owned, losses, torch.zeros((), dtype=losses.dtype, device=losses.device)).sum(-1)


class _Losses(torch.autograd.Function):
    """The cross-entropy of each trained token, (trained tokens,)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        softcap: float,
        targets: Targets,
        chunk: int,
        grows: bool,
    ) -> Tensor:
        head = Head(weight=weight, bias=bias, scale=scale, softcap=softcap)
        trains_hidden, trains_weight, trains_bias = (grows and needed for needed in ctx.needs_input_grad[:3])
        early = trains_hidden and not (trains_weight or trains_bias)
        losses = torch.empty(targets.tokens.shape, dtype=_exact(hidden), device=hidden.device)
        gradient = torch.zeros_like(hidden) if early else None
        for part in _parts(targets, chunk):
            rows = hidden[targets.places[part]]
            losses[part], slopes = _chunk(rows, head, targets.tokens[part], early)
            if gradient is not None and slopes is not None:
                gradient[targets.places[part]] = slopes.to(hidden.dtype) @ weight
            del rows, slopes
        ctx.targets, ctx.chunk, ctx.scale, ctx.softcap, ctx.early = targets, chunk, scale, softcap, early
        ctx.save_for_backward(*((gradient,) if early else (hidden, weight, bias)))
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        targets: Targets = ctx.targets
        (factors,) = outer
        if ctx.early:
            (gradient,) = ctx.saved_tensors
            scale = torch.zeros(gradient.shape[0], dtype=factors.dtype, device=gradient.device)
            scale[targets.places] = factors
            return gradient * scale.to(gradient.dtype).unsqueeze(-1), *(None,) * 7
        hidden, weight, bias = ctx.saved_tensors
        head = Head(weight=weight, bias=bias, scale=ctx.scale, softcap=ctx.softcap)
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        exact = _exact(hidden)
        of_hidden = torch.zeros_like(hidden) if to_hidden else None
        of_weight = torch.zeros_like(weight, dtype=exact) if to_weight else None
        of_bias = torch.zeros_like(bias, dtype=exact) if to_bias else None
        for part in _parts(targets, ctx.chunk):
            rows = hidden[targets.places[part]]
            _, slopes = _chunk(rows, head, targets.tokens[part], True)
            assert slopes is not None
            slopes *= factors[part].unsqueeze(-1)
            if of_bias is not None:
                of_bias += slopes.sum(0)
            slopes = slopes.to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[targets.places[part]] = slopes @ weight
            if of_weight is not None:
                of_weight += slopes.T @ rows
            del rows, slopes
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            *(None,) * 5,
        )


def _chunk(rows: Tensor, head: Head, tokens: Tensor, slopes: bool) -> tuple[Tensor, Tensor | None]:
    """The losses of these tokens from their hidden states, and d loss / d (hidden · weightᵀ + bias) of each."""
    logits = F.linear(rows, head.weight, head.bias).to(_exact(rows))
    if head.scale != 1:
        logits *= head.scale
    bent = None
    if head.softcap:
        bent = torch.tanh(logits / head.softcap)
        logits = bent * head.softcap
    # One buffer of the chunk's size from here on: logits, then their exponentials, probabilities and slopes.
    logits -= logits.amax(-1, keepdim=True)
    own = logits.gather(-1, tokens.unsqueeze(-1))
    logits.exp_()
    total = logits.sum(-1, keepdim=True)
    losses = (total.log() - own).squeeze(-1)
    if not slopes:
        return losses, None
    logits /= total
    logits[torch.arange(tokens.shape[0], device=tokens.device), tokens] -= 1
    if bent is not None:
        logits *= bent.square_().neg_().add_(1)
    if head.scale != 1:
        logits *= head.scale
    return losses, logits


def _parts(targets: Targets, chunk: int) -> list[slice]:
    return [slice(at, at + chunk) for at in range(0, targets.tokens.shape[0], chunk)]


def _exact(tensor: Tensor) -> torch.dtype:
    """The dtype that losses are computed in."""
    return torch.promote_types(tensor.dtype, torch.float32)
