"""Which kernel CUDA picks for scaled_dot_product_attention, and what it takes beside its results.

The rules are those of `select_sdp_backend` (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, PyTorch
2.13): flash first, then memory-efficient, then the plain composite; cuDNN's first on Hopper and data-centre
Blackwell.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, float16, float32

Kernel = Literal["cudnn", "flash", "efficient", "math"]

FLASH_MAX_HEAD = 256
CUDNN_MAX_HEAD = 128
BLOCK = 128
"""Rows that flash's backward and the efficient backward round sequences up to (flash_api.cpp
`round_multiple`)."""


def choose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    capability: tuple[int, int],
) -> Kernel:
    """The kernel for (batch, heads, length, head size) tensors on a card of compute `capability`."""
    if query.dim() != 4 or key.shape[2] == 0:
        return "math"
    sizes = {query.shape[-1], key.shape[-1], value.shape[-1]}
    half = query.itemsize == 2
    if _cudnn(query, sizes, half, dropout, capability):
        return "cudnn"
    if mask is None and _flash(query, key, sizes, half, dropout, causal, capability):
        return "flash"
    grouped = query.shape[1] != key.shape[1]
    if not grouped and _efficient(query, sizes, half, capability):
        return "efficient"
    return "math"


def _cudnn(query: Tensor, sizes: set[int], half: bool, dropout: float, capability: tuple[int, int]) -> bool:
    """`check_prefer_cudnn_attention`: cuDNN comes first on compute 9.x and 10.x."""
    fits = max(sizes) <= CUDNN_MAX_HEAD and all(size % 8 == 0 for size in sizes)
    return capability[0] in (9, 10) and half and fits and dropout * 16 == int(dropout * 16)


def _flash(
    query: Tensor,
    key: Tensor,
    sizes: set[int],
    half: bool,
    dropout: float,
    causal: bool,
    capability: tuple[int, int],
) -> bool:
    size = query.shape[-1]
    if capability < (8, 0) or not half or len(sizes) > 1 or size > FLASH_MAX_HEAD:
        return False
    if causal and query.shape[2] != key.shape[2]:
        return False
    consumer = (8, 6) <= capability <= (8, 9) or capability >= (12, 0)
    if consumer and query.requires_grad and size > 192:
        return size > 224 and dropout == 0
    return query.stride(-1) == 1 and key.stride(-1) == 1


def _efficient(query: Tensor, sizes: set[int], half: bool, capability: tuple[int, int]) -> bool:
    """`minimum_gemm_alignment`: head sizes in 16-byte lines for tensor cores, 4 elements on compute 8
    without."""
    known = query.dtype in (float16, float32) or (half and capability >= (8, 0))
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and half)
    alignment = 128 // (16 if half else 32) if tensor_cores else 1
    return known and all(size % alignment == 0 for size in sizes)


def flash_backward_scratch(query: Tensor, key: Tensor) -> tuple[int, ...]:
    """Bytes of `mha_bwd`'s buffers (flash_attn/flash_api.cpp): the row sums and dQ in fp32, and dK, dV by
    query head where heads share keys."""
    batch, heads, length, size = query.shape
    rows = -(-length // BLOCK) * BLOCK
    unit = 32 if size <= 128 else 64
    wide = -(-size // unit) * unit
    buffers = [batch * heads * rows * 4, batch * rows * heads * wide * 4]
    if key.shape[1] != heads:
        buffers += [batch * key.shape[2] * heads * size * query.itemsize] * 2
    return tuple(buffers)


def efficient_backward_scratch(query: Tensor, key: Tensor) -> tuple[int, ...]:
    """Bytes of the memory-efficient backward's buffers (mem_eff_attention/kernel_backward.h): delta, and the
    fp32 accumulators, dQ always (`kEnableSplitKeys`), dK and dV where a head does not fit the registers."""
    batch, heads, length, size = query.shape
    rows, wide = -(-length // 64) * 64, -(-size // 64) * 64
    buffers = [batch * heads * rows * 4, batch * heads * rows * wide * 4]
    if size > 128 and query.itemsize == 2:
        keys = -(-key.shape[2] // 64) * 64
        buffers.append(2 * batch * heads * keys * wide * 4)
    return tuple(buffers)
