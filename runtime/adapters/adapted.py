"""A frozen layer with trained parts beside it: what all methods share.

- The parts compute in the base's dtype; `runtime.step` keeps float32 masters of those that are in fewer bits.
- First values are functions of (seed, component, path, part) alone, dropout of (seed, step, sample, path).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from runtime import plan
from runtime.adapters.dropout import ChannelDropout, Drawn, SampleDropout

LINEAR = (nn.Linear, Conv1D)
"""Conv1D is GPT-2's linear layer, its weight the other way round."""

Parts = Mapping[str, Tensor]
"""What a layer's method trains, by the method's own short names."""


class Adapted(nn.Module):
    """`base_layer` and what is added to its output: (N, …, in) -> (N, …, out), or (N, in, H, W) -> (N, out, h, w).

    A method's layer says what is `added`, and the `first` values of its `parts`. `acting` is the adapter's weight:
    1 as trained, 0 the base alone.
    """

    def __init__(self, base: nn.Module, shapes: Mapping[str, Sequence[int]], exact: bool = False) -> None:
        """`exact`: the parts are float32 whatever the base's dtype, as what they learn is small against them."""
        super().__init__()
        weight = weight_of(base)
        dtype = torch.float32 if exact else weight.dtype
        self.base_layer = base
        self.parts = nn.ParameterDict(
            {
                name: torch.empty(tuple(shape), dtype=dtype, device=weight.device)
                for name, shape in shapes.items()
            }
        )
        self.acting = 1.0

    @property
    def weight(self) -> Tensor:
        """The base's: models look at its dtype."""
        return weight_of(self.base_layer)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x)
        return self.joined(x, out) if self.acting else out

    def joined(self, x: Tensor, out: Tensor) -> Tensor:
        """`out` with what is added to it at the present weight."""
        added = self.added(x, out)
        return out + (added if self.acting == 1 else self.acting * added)

    def added(self, x: Tensor, out: Tensor) -> Tensor:
        """What the method adds at full weight to `out`, the base's output for `x`."""
        raise NotImplementedError

    def first(self, generator: Callable[[str], Generator]) -> None:
        """Set the parts' first values; `generator` gives one for each part's name."""
        raise NotImplementedError

    def finished(self, parts: Parts) -> Parts:
        """What files are to hold, from the parts' values (float32, CPU)."""
        return parts


# ------------------------------------------------------------------------------------------------- adapted modules


def layers(module: nn.Module) -> dict[str, Adapted]:
    """The adapted layers by path."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Adapted)}


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters, `PATH.PART`, in a fixed order."""
    return {
        f"{path}.{name}": part for path, layer in layers(module).items() for name, part in layer.parts.items()
    }


def initialise(module: nn.Module, component: str, seed: int) -> None:
    """Set every part's first value."""
    for path, layer in layers(module).items():

        def generator(part: str, _path: str = path) -> Generator:
            digest = blake2b(f"{seed}/{component}.{_path}.{part}".encode(), digest_size=7).digest()
            return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

        with torch.no_grad():
            layer.first(generator)


def drawn(module: nn.Module) -> list[Drawn]:
    """What draws masks, for `runtime.adapters.dropout.aim`."""
    return [part for part in module.modules() if isinstance(part, SampleDropout | ChannelDropout)]


def weigh(module: nn.Module, weight: float) -> None:
    """Set how strongly the adapter acts: 1 as trained, 0 as the base."""
    for layer in layers(module).values():
        layer.acting = weight


# ---------------------------------------------------------------------------------------------------- frozen layers


def weight_of(base: nn.Module) -> Tensor:
    """A frozen layer's weight as it computes."""
    weight = base.weight
    assert isinstance(weight, Tensor)
    return weight


def sides(base: nn.Module) -> tuple[int, tuple[int, ...]]:
    """(out, (in,)) of a linear layer, (out, (in, k, k)) of a convolution."""
    if isinstance(base, nn.Linear):
        return base.out_features, (base.in_features,)
    if isinstance(base, nn.Conv2d):
        return base.out_channels, (base.in_channels, *base.kernel_size)
    inner, out = weight_of(base).shape
    return out, (inner,)


def through(base: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What the layer does to `x`, with another weight (out, in) or (out, in, k, k) and no bias."""
    if isinstance(base, nn.Conv2d):
        return F.conv2d(x, weight, None, base.stride, base.padding, base.dilation)
    return F.linear(x, weight)


def channels(base: nn.Module) -> int:
    """Which dimension of the layer's output its channels are."""
    return 1 if isinstance(base, nn.Conv2d) else -1


def kaiming(shape: Sequence[int], generator: Generator) -> Tensor:
    """Kaiming-uniform with a = √5 over what follows the first dimension, as torch begins its own layers."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return (torch.rand(tuple(shape), generator=generator) * 2 - 1) * bound


def channel_dropout(base: nn.Module, name: str, adapter: plan.Adapter, scaled: bool) -> nn.Module:
    """Rank and module dropout over the last (or a convolution's second) dimension, as the plan says."""
    if not adapter.rank_dropout and not adapter.module_dropout:
        return nn.Identity()
    return ChannelDropout(adapter.rank_dropout, adapter.module_dropout, name, channels(base), scaled)
