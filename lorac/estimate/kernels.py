"""CUDA's operators, where they allocate otherwise than the CPU's.

| operator | on the CPU | on CUDA |
| --- | --- | --- |
| scaled_dot_product_attention | its own flash kernel | one of four (`attention.choose`), each saves its own |
| rms_norm | seven operators in fp32 | one kernel that saves its input and 1/rms |
| dropout | a mask in the input's dtype | `native_dropout`: a mask of booleans |
| softmax(half, dtype=float32) | a copy in fp32 first | one kernel |
| optimizers | one parameter at a time | `foreach`: whole lists, temporaries of all parameters at once |
| convolution, attention's backward, matmul | nothing seen | workspaces |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import optimizer as optim

from lorac.estimate import attention
from lorac.estimate.cuda import cublas_workspace

aten = torch.ops.aten


class CudaKernels:
    """While open, composite operators on CPU tensors go to what CUDA would run on a card of compute `capability`.

    `workspace` is what CUBLAS_WORKSPACE_CONFIG says. The operators are put into the dispatcher, where calls from
    Python, from C++ and from a recomputation all pass.
    """

    def __init__(self, capability: tuple[int, int], workspace: str = "") -> None:
        self.capability = capability
        self.workspace = workspace
        self._handles: set[bool] = set()

    @contextmanager
    def active(self) -> Iterator[None]:
        library = torch.library.Library("aten", "IMPL")
        instead: dict[str, Callable[..., Any]] = {
            "scaled_dot_product_attention": self._attention,
            "rms_norm": _rms_norm,
            "dropout": _dropout,
            "softmax.int": _softmax,
        }
        for name, function in instead.items():
            for key in ("AutogradCPU", "CPU"):
                library.impl(name, function, key)
        with mock.patch.object(optim, "_get_foreach_kernels_supported_devices", lambda: ["cuda", "cpu"]):
            try:
                yield
            finally:
                library._destroy()

    def scratch(self, func: Any, args: tuple[Any, ...], out: Any) -> tuple[int, ...]:
        """Bytes of the buffers that the kernel of `func` holds while it runs."""
        if func is aten._scaled_dot_product_flash_attention_backward.default:
            return attention.flash_backward_scratch(args[1], args[2])
        if func in (
            aten._scaled_dot_product_efficient_attention_backward.default,
            aten._scaled_dot_product_cudnn_attention_backward.default,
        ):
            return attention.efficient_backward_scratch(args[1], args[2])
        if func in (aten.convolution.default, aten.convolution_backward.default):
            return _convolution_scratch(func, args, out)
        return ()

    def lasting(self, func: Any, in_backward: bool) -> int:
        """Bytes that the call takes for good: a cuBLAS handle's workspace, at its thread's first matmul."""
        if (
            func._overloadpacket not in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)
            or in_backward in self._handles
        ):
            return 0
        self._handles.add(in_backward)
        return cublas_workspace(self.capability, self.workspace)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        kernel = attention.choose(query, key, value, attn_mask, dropout_p, is_causal, self.capability)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            zero = torch.zeros((), dtype=query.dtype, device=query.device)
            attn_mask = torch.where(attn_mask.logical_not(), float("-inf"), zero)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
        if kernel == "flash":
            size = query.shape[-1]
            padding = -size % 8
            if padding:
                query, key, value = (F.pad(t, (0, padding)) for t in (query, key, value))
            out = aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, scale=scale
            )[0]
            return out[..., :size]
        if kernel == "math":
            return aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        if attn_mask is not None:
            attn_mask = _aligned(attn_mask, query.shape[:3], key.shape[2])
        if kernel == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(
                query, key, value, attn_mask, learns, dropout_p, is_causal, scale=scale
            )[0]
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, learns, dropout_p, is_causal, scale=scale
        )[0]


def _aligned(mask: Tensor, rows: Sequence[int], keys: int) -> Tensor:
    """`preprocess_mask`: the last dimension padded to 8 elements, then expanded to every head without a
    copy."""
    padding = -keys % 8
    if padding and mask.shape[-1] == keys:
        mask = F.pad(mask, (0, padding))[..., :keys]
    return mask.expand(*rows, keys)


@torch.library.custom_op("lorac::fused_rms_norm", mutates_args=())
def fused_rms_norm(input: Tensor, weight: Tensor | None, normalized: int) -> tuple[Tensor, Tensor]:
    """Shapes of `aten::_fused_rms_norm`: the result, and 1/rms of each row in fp32."""
    raise NotImplementedError("only its shapes are used, under the tracer")


@fused_rms_norm.register_fake
def _(input: Tensor, weight: Tensor | None, normalized: int) -> tuple[Tensor, Tensor]:
    rows = input.new_empty(
        (*input.shape[: input.dim() - normalized], *(1,) * normalized), dtype=torch.float32
    )
    return torch.empty_like(input), rows


@torch.library.custom_op("lorac::fused_rms_norm_backward", mutates_args=())
def fused_rms_norm_backward(
    grad: Tensor, input: Tensor, rstd: Tensor, weight: Tensor | None, learns: bool
) -> tuple[Tensor, Tensor]:
    """Shapes of `aten::_fused_rms_norm_backward`: the gradients of the input and of the weight."""
    raise NotImplementedError("only its shapes are used, under the tracer")


@fused_rms_norm_backward.register_fake
def _(
    grad: Tensor, input: Tensor, rstd: Tensor, weight: Tensor | None, learns: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(input), torch.empty_like(
        weight
    ) if learns and weight is not None else input.new_empty(0)


def _rms_saved(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _rms_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, rstd = ctx.saved_tensors
    learns = ctx.needs_input_grad[1]
    of_input, of_weight = fused_rms_norm_backward(grad, input, rstd, weight, learns)
    return of_input, of_weight if learns else None, None


fused_rms_norm.register_autograd(_rms_backward, setup_context=_rms_saved)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    return fused_rms_norm(input.contiguous(), weight, len(normalized_shape))[0]


def _dropout(input: Tensor, p: float, train: bool) -> Tensor:
    if not train or p == 0:
        return torch.ops.aten.alias(input)
    return torch.native_dropout(input, p, True)[0]


def _softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    half = input.dtype in (torch.float16, torch.bfloat16)
    if dtype is not torch.float32 or not half:
        return aten._softmax(input if dtype is None else input.to(dtype), dim, False)
    return aten._softmax(input, dim, True)


def _convolution_scratch(func: Any, args: tuple[Any, ...], out: Any) -> tuple[int, ...]:
    """cuDNN computes half-precision convolutions in NHWC: an NCHW operand is transposed into its workspace
    and the result back (cuDNN developer guide, "Tensor Transformations")."""
    results = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, Tensor)]
    operands = [t for t in args[:3] if isinstance(t, Tensor) and t.dim() == 4] + [
        t for t in results if t.dim() == 4
    ]
    if not results or results[0].itemsize != 2:
        return ()
    plain = [t for t in operands if not t.is_contiguous(memory_format=torch.channels_last)]
    size = sum(t.numel() * t.itemsize for t in plain)
    return (size,) if size else ()
