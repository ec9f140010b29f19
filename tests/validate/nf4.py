"""bitsandbytes' 4-bit layer of versions 0.41 and 0.42, as far as memory goes, for the runs that were made with them.

What today's version does otherwise, and what each costs:
- the layer's input is kept for the backward (until bitsandbytes#1270, July 2024), on the graph's node itself and not
  by `save_for_backward`: it lives until the whole graph is dropped, which in a loop that reassigns `loss` is after the
  next forward;
- Lightning quantises from fp16, so a weight is dequantised to fp16 and then copied to the compute dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK, NESTED_BLOCK = 64, 256


class Matmul4bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: Linear4bit) -> Tensor:
        ctx.tensors, ctx.layer = (input,), layer
        return F.linear(input, layer.dequantised(), layer.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.matmul(grad, ctx.layer.dequantised()), None


class Linear4bit(nn.Module):
    """The quantised stand-in for a linear layer on the meta device; `nested` quantises its scales too."""

    def __init__(self, linear: nn.Linear, nested: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self.nested = linear.bias, nested
        count = linear.weight.numel()
        blocks = -(-count // BLOCK)
        self.weight = _frozen(-(-count // 2), torch.uint8)
        self.absmax = _frozen(blocks, torch.uint8 if nested else torch.float32)
        self.code = _frozen(16, torch.float32)
        if nested:
            self.absmax2 = _frozen(-(-blocks // NESTED_BLOCK), torch.float32)
            self.code2 = _frozen(256, torch.float32)
            self.offset = _frozen(1, torch.float32)

    def dequantised(self) -> Tensor:
        if self.nested:
            scales = torch.empty(self.absmax.shape, dtype=torch.float32)
            scales = scales + self.offset
        return torch.empty(self.out_features, self.in_features, dtype=torch.float16).to(torch.bfloat16)

    def forward(self, input: Tensor) -> Tensor:
        return Matmul4bit.apply(input, self)  # type: ignore[no-any-return, no-untyped-call]


class PagedAdamW(torch.optim.Optimizer):
    """bitsandbytes' paged optimizer: fp32 moments, those of 100,000 numbers and more in managed memory, which
    PyTorch's allocator does not see (bitsandbytes/optim/optimizer.py `get_state_buffer`)."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None and not self.state[parameter] and parameter.numel() < 100_000:
                for moment in ("state1", "state2"):
                    self.state[parameter][moment] = torch.zeros_like(parameter, dtype=torch.float32)


def quantise(model: nn.Module, nested: bool) -> None:
    """Replace every plain linear layer, as Lightning's `BitsandbytesPrecision` does."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Linear4bit(child, nested))


def _frozen(count: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(count, 1, dtype=dtype, device="meta"), requires_grad=False)
