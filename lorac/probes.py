"""The calls that `lorac calibrate` times: each operator of a train step at sizes from a tiny model's to a real one's.

- What a call was just given lies in the caches, as in a step; a weight does not.
- Sizes are those of layers, of low-rank adapters and of the levels of UNets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

Work = Callable[[], Any]

PRODUCTS = (
    *((m, k, n) for m in (64, 256, 1024) for k, n in ((64, 64), (320, 4), (4, 320), (768, 32), (32, 768))),
    *((m, k, n) for m in (77, 256, 1024) for k, n in ((320, 320), (320, 1280), (1280, 320))),
    (4096, 320, 320),
    (256, 1280, 1280),
)
"""Rows, inner and outer sizes of matrix products: those of layers, and of low-rank adapters."""

BATCHED = ((8, 64, 64, 40), (8, 256, 256, 40), (16, 128, 128, 64), (4, 512, 64, 512))
"""Batch, rows, inner and outer sizes."""

CONVOLUTIONS = (
    *(
        (1, channels, side, channels, 3)
        for channels, side in ((32, 16), (32, 64), (64, 8), (64, 32), (128, 16))
    ),
    *((1, channels, side, channels, 3) for channels, side in ((128, 32), (320, 8), (320, 16), (512, 8))),
    *((4, channels, side, channels, 3) for channels, side in ((32, 32), (64, 16), (128, 8))),
    *((1, channels, side, channels, 3) for channels in (64, 128, 256, 512) for side in (2, 4)),
    (1, 4, 32, 64, 3),
    (1, 256, 16, 128, 3),
    (1, 64, 32, 64, 1),
    (1, 320, 16, 320, 1),
)
"""Batch, channels in, side, channels out, side of the kernel."""

ATTENTIONS = (
    *((1, 8, length, length, size) for length in (64, 256, 1024) for size in (8, 32, 64)),
    *((2, 4, length, 77, size) for length in (16, 64, 256, 1024) for size in (8, 40)),
    *((8, 8, length, keys, 16) for length in (4, 16, 64) for keys in (length, 77)),
    (4, 8, 128, 128, 32),
)
"""Batch, heads, queries, keys, size of a head."""

LENGTHS = (2**10, 2**13, 2**16, 2**18, 2**20, 2**22)
"""Elements of what an operator that only moves memory is timed on."""

FAR, PARTS = 2**26, 256
"""A step comes to a weight when it has long left the caches: bytes that weights lie in, and how many at most."""


def works(dtype: torch.dtype, device: str) -> Iterator[Work]:
    """Every call to be timed in a dtype; attention's on a CPU only. Each may be called any number of times."""
    yield from _computing(dtype, device)
    yield from _moving(dtype, device)


def _computing(dtype: torch.dtype, device: str) -> Iterator[Work]:
    def new(*shape: int) -> Tensor:
        return tensor(shape, dtype, device)

    def far(*shape: int) -> Far:
        return _far(shape, dtype, device)

    for m, k, n in PRODUCTS:
        yield _of(lambda x, weight: torch.mm(x, weight.t()), new(m, k), far(n, k))  # a layer's forward
        yield _of(torch.mm, new(m, n), far(n, k))  # and the gradient of its input
        yield _of(lambda bias, x, weight: torch.addmm(bias, x, weight.t()), new(n), new(m, k), far(n, k))
    for batch, m, inner, n in BATCHED:
        yield _of(torch.bmm, new(batch, m, inner), new(batch, inner, n))
    for batch, channels, side, channels_out, kernel in CONVOLUTIONS:
        x, weight, gradient = (
            new(batch, channels, side, side),
            far(channels_out, channels, kernel, kernel),
            new(batch, channels_out, side, side),
        )
        how = ([1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1)
        yield _of(aten.convolution, x, weight, new(channels_out), *how)
        yield _of(aten.convolution_backward, gradient, x, weight, None, *how, [True, False, False])
    if device == "cpu":
        for batch, heads, queries, keys, size in ATTENTIONS:
            query, key, value = (
                new(batch, length, heads, size).transpose(1, 2) for length in (queries, keys, keys)
            )
            out, sums = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
            backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
            yield _of(aten._scaled_dot_product_flash_attention_for_cpu, query, key, value)
            yield _of(backward, out.clone(), query, key, value, out, sums, 0.0, False)


def _moving(dtype: torch.dtype, device: str) -> Iterator[Work]:
    other = torch.float32 if dtype is torch.bfloat16 else torch.bfloat16
    for length in LENGTHS:
        pixels = length // 64
        height = 2 ** (pixels.bit_length() // 2)
        rows, one, scale = (tensor(shape, dtype, device) for shape in ((pixels, 64), (64,), (pixels, 1)))
        also = rows.clone()
        picture = tensor((1, 64, height, pixels // height), dtype, device)
        yield _of(torch.add, rows, also)
        yield _of(torch.mul, rows, scale)
        yield _of(lambda x, dtype: x.to(dtype), rows.to(other), dtype)
        yield _of(lambda x: x.transpose(1, 2).contiguous(), tensor((1, pixels, 64), dtype, device))
        yield _of(lambda x: torch.cat((x[:, :32], x[:, 32:]), 1), rows)
        yield _of(torch.neg, rows)
        yield _of(torch.pow, rows, 2)
        yield _of(lambda x: x.sum(-1, keepdim=True), rows)
        yield _of(lambda x: x.mean(-1, keepdim=True), rows)
        yield _of(aten.slice_backward, rows[:, :32], rows.shape, 1, 0, 32, 1)
        for function in (F.silu, F.gelu, torch.sigmoid):
            yield _of(function, rows)
        for function in (aten.silu_backward, aten.gelu_backward, aten.sigmoid_backward):
            yield _of(function, rows, also)
        for function in (aten._softmax, aten._log_softmax):
            yield _of(function, rows, -1, False)
        for function in (aten._softmax_backward_data, aten._log_softmax_backward_data):
            yield _of(function, rows, also, -1, dtype)
        yield _of(aten.native_layer_norm, rows, [64], one, one, 1e-5)
        _, *saved = aten.native_layer_norm(rows, [64], one, one, 1e-5)
        yield _of(aten.native_layer_norm_backward, also, rows, [64], *saved, one, one, [True, False, False])
        shape = (1, 64, pixels, 32)
        yield _of(aten.native_group_norm, picture, one, one, *shape, 1e-5)
        _, *saved = aten.native_group_norm(picture, one, one, *shape, 1e-5)
        before = picture.clone()
        yield _of(aten.native_group_norm_backward, before, picture, *saved, one, *shape, [True, False, False])
        yield _of(aten.upsample_nearest2d, picture, [2 * side for side in picture.shape[2:]])


def _of(function: Callable[..., Any], *arguments: Any) -> Work:
    """The call; an argument that is a `Far` is another tensor each time."""
    if not any(isinstance(argument, Far) for argument in arguments):
        return partial(function, *arguments)
    return lambda: function(*(next(a) if isinstance(a, Far) else a for a in arguments))


class Far(Iterator[Tensor]):
    """Tensors of a shape that lie far apart, so that none is still in a cache when it comes round again."""

    def __init__(self, pool: Tensor, shape: tuple[int, ...]) -> None:
        size = math.prod(shape)
        parts = [pool[at : at + size].view(shape) for at in range(0, len(pool) - size + 1, size)]
        self.turn = itertools.cycle(parts[:: max(1, len(parts) // PARTS)])

    def __next__(self) -> Tensor:
        return next(self.turn)


def _far(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Far:
    return Far(tensor((FAR // dtype.itemsize,), dtype, device), shape)


@cache
def tensor(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Numbers of a size that no operator makes infinite or denormal."""
    return torch.rand(shape, device=device).add_(0.5).to(dtype)
