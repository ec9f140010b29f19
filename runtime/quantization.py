"""The frozen base in fewer bits: linear layers whose weight is kept packed and unpacked each time it is used.

- "nf4": QLoRA's 4-bit NormalFloat (Dettmers et al. 2023) in blocks of 64, the blocks' scales in 8 bits too, by
  bitsandbytes: the same bytes as its `Linear4bit`, some 4.13 bits a weight.
- "int8": a signed byte a weight and one float32 scale a row, in plain torch.
- "fp8": the same with a float8 (e4m3, Micikevicius et al. 2022) a weight: small ones keep more digits. It is a way to
  store; products are computed in the layer's dtype, so any card can.
- A layer keeps nothing of its own for its backward: neither the input, as its weight is frozen, nor the unpacked
  weight, which the backward unpacks again from the packed one.
- All that a layer holds are buffers, so `.to(device)`, `state_dict` and the memory tracer see it; real and fake
  tensors run the same operators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from runtime.errors import MachineError, PlanError, Problem

BLOCK = 64
"""Weights that share a scale in nf4."""

SCALES_BLOCK = 256
"""Scales of nf4 that share a scale of their own (bitsandbytes.functional.quantize_4bit)."""

SERIAL = 32768
"""Numbers that a CPU adds up in one thread (`at::internal::GRAIN_SIZE`): a sum over more has other last bits on
another count of threads."""

Chosen = Collection[str] | Callable[[str], bool]
"""Which layers: their paths, or what says so of a path."""


def quantise(module: nn.Module, kind: str, dtype: torch.dtype, only: Chosen | None = None) -> list[str]:
    """Replace the linear layers inside `module` by frozen ones of `kind`, in place; the paths that were replaced.

    - Layers compute in `dtype`, their bias is kept in it. `only` chooses among the layers; None takes all.
    - Plain `nn.Linear`s alone: no embedding, convolution, norm or subclass, and not `module` itself.
    - One layer at a time, each float weight freed before the next: memory never holds the base twice. Whoever else
      holds a weight (a tied embedding) keeps it.
    - Meta and fake tensors are replaced by shape, without values.

    Raises PlanError for an unknown kind, MachineError where bitsandbytes is needed and missing.
    """
    if kind not in KINDS:
        raise PlanError(
            Problem("compute.quantization", f"must be one of {', '.join(KINDS)} to quantise, got {kind!r}")
        )
    if kind == "nf4":
        _load_bitsandbytes()
    places = _places(module, only)
    for found in places:
        parent, name, _ = found[0]
        quantised = KINDS[kind](parent.get_submodule(name), dtype)
        for parent, name, _ in found:
            setattr(parent, name, quantised)
    return [path for found in places for _, _, path in found]


def _places(module: nn.Module, only: Chosen | None) -> list[list[tuple[nn.Module, str, str]]]:
    """(parent, name in it, path) of each chosen layer, wherever it hangs. The layers are not held, so they can go."""
    chosen = (lambda path: True) if only is None else only if callable(only) else set(only).__contains__
    places: dict[int, list[tuple[nn.Module, str, str]]] = {}
    for path, parent in module.named_modules():
        for name, child in parent._modules.items():
            inner = f"{path}.{name}" if path else name
            if type(child) is nn.Linear and chosen(inner):
                places.setdefault(id(child), []).append((parent, name, inner))
    return list(places.values())


class QuantisedLinear(nn.Linear):
    """A frozen linear layer whose weight is packed in buffers: (…, in) -> (…, out), in `dtype`.

    It is an `nn.Linear` to whoever looks for one, as peft's LoRA does. `.to(dtype)` moves it between devices only:
    it computes in the dtype it was made for, and its scales are float32.
    """

    packed: Tensor

    def __init__(self, linear: nn.Module, dtype: torch.dtype) -> None:
        assert isinstance(linear, nn.Linear)
        nn.Module.__init__(self)  # not Linear's own, which would make a float weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = dtype
        self.training = linear.training
        bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self._pack(linear.weight.detach())

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight as it computes, (out, in) in `dtype`: made anew at each reading, and not to be written to."""
        with torch.no_grad():
            return self._unpack()

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = _Frozen.apply(input, self)
        return out

    def _pack(self, weight: Tensor) -> None:
        """Register the buffers that hold `weight`, (out, in) of any floating dtype."""
        raise NotImplementedError

    def _unpack(self) -> Tensor:
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedLinear:
        def moved(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            return out if out.dtype is tensor.dtype else tensor.to(out.device)

        super()._apply(moved, recurse)
        return self


class Nf4Linear(QuantisedLinear):
    """Buffers: `packed` (ceil(n / 2), 1) uint8, two weights a byte; `absmax` (blocks,) uint8, their scales;
    `nested_absmax` (ceil(blocks / 256),), `nested_code` (256,) and `offset` (), float32, what those are read by."""

    absmax: Tensor
    nested_absmax: Tensor
    nested_code: Tensor
    offset: Tensor

    def _pack(self, weight: Tensor) -> None:
        for name, tensor in (_nf4_empty if _valueless(weight) else _nf4)(weight).items():
            self.register_buffer(name, tensor)

    def _unpack(self) -> Tensor:
        ops = torch.ops.bitsandbytes
        scales = ops.dequantize_blockwise(
            self.absmax, self.nested_absmax, self.nested_code, SCALES_BLOCK, torch.float32
        )
        scales += self.offset
        shape = (self.out_features, self.in_features)
        out: Tensor = ops.dequantize_4bit(self.packed, scales, BLOCK, "nf4", shape, self.dtype)
        return out


def _nf4(weight: Tensor) -> dict[str, Tensor]:
    """bitsandbytes' `quantize_4bit`, but for the order in which its mean of the scales is summed."""
    from bitsandbytes import functional

    packed, scales = torch.ops.bitsandbytes.quantize_4bit(weight.contiguous(), BLOCK, "nf4", torch.uint8)
    offset = torch.stack([part.sum() for part in scales.split(SERIAL)]).sum() / scales.numel()
    absmax, nested = functional.quantize_blockwise(scales - offset, blocksize=SCALES_BLOCK)
    return {
        "packed": packed,
        "absmax": absmax,
        "nested_absmax": nested.absmax,
        "nested_code": nested.code,
        "offset": offset,
    }


def _nf4_empty(weight: Tensor) -> dict[str, Tensor]:
    """The same without values. bitsandbytes keeps its code table from the first call on, so it must not see a
    tensor that has none."""
    count = weight.numel()
    blocks = -(-count // BLOCK)
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "packed": ((-(-count // 2), 1), torch.uint8),
        "absmax": ((blocks,), torch.uint8),
        "nested_absmax": ((-(-blocks // SCALES_BLOCK),), torch.float32),
        "nested_code": ((256,), torch.float32),
        "offset": ((), torch.float32),
    }
    return {name: weight.new_empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}


class ByteLinear(QuantisedLinear):
    """Buffers: `packed` (out, in) of `CODE`, at most `TOP` in magnitude; `scale` (out,) float32, what 1 stands for in
    each row.

    A scale is the row's largest magnitude / TOP, taken up to the next number of `dtype`: so it is exact there, and a
    weight is rounded twice, to its code and to `dtype`.
    """

    CODE: torch.dtype
    TOP: float
    scale: Tensor

    def _pack(self, weight: Tensor) -> None:
        weight = weight.float()
        largest = weight.abs().amax(dim=1)
        scale = (largest / self.TOP).to(self.dtype)
        up = torch.nextafter(scale, torch.full_like(scale, torch.inf)).float()
        scale = torch.where(scale.float() * self.TOP < largest, up, scale.float())
        codes = (
            weight / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        )  # a row of zeros has scale 0
        if not self.CODE.is_floating_point:
            codes.round_()
        self.register_buffer("packed", codes.clamp_(-self.TOP, self.TOP).to(self.CODE))
        self.register_buffer("scale", scale)

    def _unpack(self) -> Tensor:
        return self.packed.to(self.dtype).mul_(self.scale.to(self.dtype)[:, None])


class Int8Linear(ByteLinear):
    """Evenly spaced codes: an error is at most half a step."""

    CODE, TOP = torch.int8, 127.0


class Fp8Linear(ByteLinear):
    """Codes of three binary digits: an error is at most a sixteenth of the weight, or half the least code."""

    CODE, TOP = torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max


KINDS: dict[str, type[QuantisedLinear]] = {"nf4": Nf4Linear, "int8": Int8Linear, "fp8": Fp8Linear}


class _Frozen(torch.autograd.Function):
    """x @ W.T + b and its gradient with respect to x, with W unpacked for each."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(layer.packed)
        return F.linear(input, layer.weight, layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors  # where the layer's block is offloaded, asking for it fetches the block
        return grad.matmul(ctx.layer.weight), None


def _valueless(tensor: Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _load_bitsandbytes() -> None:
    """Import bitsandbytes, which registers the operators that nf4 is made of. Raises MachineError."""
    # On some CPUs it warns of a package for a product of 4-bit matrices that is not used here.
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        hint = "pip install -c constraints.txt -e '.[quantize]', or set Fit(quantization=\"int8\")"
        raise MachineError(Problem("bitsandbytes", "is not installed, and nf4 needs it", hint)) from None
