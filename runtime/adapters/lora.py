"""LoRA (Hu et al. 2021), and with magnitudes DoRA (Liu et al. 2024, arXiv:2402.09353).

DoRA: a weight's rows, or columns, have lengths M of their own to learn. The layer computes with
M · (W + s·B·A) / ‖W + s·B·A‖, where the norm takes no gradient (section 4.3). PEFT has rows; the programs that draw
with a LoRA read columns (LyCORIS' `wd_on_output=False`; facts/outputs.md rule 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from runtime import plan
from runtime.adapters import dropped
from runtime.adapters.adapted import (
    LINEAR,
    Adapted,
    Parts,
    channel_dropout,
    kaiming,
    sides,
    through,
    weight_of,
)
from runtime.adapters.dropout import SampleDropout

TITLE = "LoRA"
TAKES = (*LINEAR, nn.Conv2d)
WEBUI = {"A": "lora_down.weight", "B": "lora_up.weight", "M": "dora_scale"}
PEFT = {"A": "lora_A.weight", "B": "lora_B.weight", "M": "lora_magnitude_vector"}
EXACT = frozenset("M")
SCALED = "B"

GAUSSIAN_STD = 0.02

ITERATIONS = 16
"""Of the randomised SVD: PEFT's `pissa_niter_16`, the most that it names."""

OVERSAMPLED = 8
"""Singular values sought beyond the rank (Halko et al. 2011, section 1.3: five or ten)."""


class LowRank(Adapted):
    """Parts: A (rank, in) or (rank, in, k, k); B (out, rank) or (out, rank, 1, 1)."""

    def __init__(self, base: nn.Module, name: str, adapter: plan.Adapter) -> None:
        out, inner = sides(base)
        rank = plan.rank_of(adapter, name)
        super().__init__(base, {"A": (rank, *inner), "B": (out, rank, *[1] * (len(inner) - 1))})
        self.strength = _strength(rank, plan.alpha_of(adapter, name), adapter.rslora)
        self.init = adapter.init
        self.dropout = SampleDropout(adapter.dropout, name)
        self.channel_dropout = channel_dropout(base, name, adapter, scaled=True)

    def first(self, generator: Callable[[str], Generator]) -> None:
        """A: Kaiming-uniform with a = √5 (as the paper's code) or Gaussian with std 0.02; B: zero."""
        a = self.parts["A"]
        if self.init == "gaussian":
            a.copy_(torch.randn(a.shape, generator=generator("A")) * GAUSSIAN_STD)
        else:
            a.copy_(kaiming(a.shape, generator("A")))
        self.parts["B"].zero_()

    def inner(self, x: Tensor) -> Tensor:
        """A x of what dropout leaves: (N, …, rank), or (N, rank, h, w)."""
        a = self.parts["A"]
        if a.ndim == 2:
            return self.channel_dropout(dropped.linear(x, a, self.dropout))
        return self.channel_dropout(through(self.base_layer, self.dropout(x), a))

    def added(self, x: Tensor, out: Tensor) -> Tensor:
        return _up(self.inner(x), self.parts["B"]) * self.strength


class LoRALayer(LowRank):
    """Parts: A and B as a low rank's. A linear layer adds B's product to the output while it is computed."""

    def joined(self, x: Tensor, out: Tensor) -> Tensor:
        b = self.parts["B"]
        if b.ndim == 4:
            return super().joined(x, out)
        inner = self.inner(x).flatten(0, -2)
        return torch.addmm(out.flatten(0, -2), inner, b.T, alpha=self.strength * self.acting).view_as(out)


class DoRALayer(LowRank):
    """Parts: A and B as LoRA's; M, float32, the lengths of rows (out,), or of columns (1, in) or (1, in, 1, 1)."""

    def __init__(self, base: nn.Module, name: str, adapter: plan.Adapter) -> None:
        super().__init__(base, name, adapter)
        self.by_rows = adapter.magnitudes == "rows"
        weight = weight_of(base)
        self.parts["M"] = torch.empty_like(
            self._lengths(_matrix(base)), dtype=torch.float32, device=weight.device
        )

    def first(self, generator: Callable[[str], Generator]) -> None:
        """M: the base's, where the layer computes what the base does."""
        super().first(generator)
        self.parts["M"].copy_(self._lengths(_matrix(self.base_layer)))

    def added(self, x: Tensor, out: Tensor) -> Tensor:
        more = self._ratio() - 1
        # The difference is rounded, not the ratio: near 1, sixteen bits have nothing for what was learned.
        if self.by_rows:
            plain = _less(out, getattr(self.base_layer, "bias", None))
            return more.to(x.dtype) * plain + (more + 1).to(x.dtype) * super().added(x, out)
        moved = x * more.to(x.dtype)
        plain = _less(self.base_layer(moved), getattr(self.base_layer, "bias", None))
        return plain + super().added(x + moved, out)

    def _ratio(self) -> Tensor:
        with torch.no_grad():
            weight = _matrix(self.base_layer)
            factors = (self.parts[part].flatten(1) for part in "BA")
            merged = torch.addmm(weight.flatten(1), *factors, alpha=self.strength)
            norm = self._lengths(merged.view(weight.shape))
            del merged
        return self.parts["M"] / norm

    def _lengths(self, weight: Tensor) -> Tensor:
        over = [at for at in range(weight.ndim) if at != (0 if self.by_rows else 1)]
        return torch.linalg.vector_norm(weight, dim=over, keepdim=not self.by_rows, dtype=torch.float32)


class PiSSALayer(LowRank):
    """LoRA that begins at the largest singular values of the base's weight (Meng et al. 2024, arXiv:2404.02948).

    The paper takes them off the base. Here the base stays, and what A and B began as is taken off the output: the
    same sum, and readers of the file need no changed base. So a file holds twice the rank.
    """

    first_A: Tensor
    first_B: Tensor

    def __init__(self, base: nn.Module, name: str, adapter: plan.Adapter) -> None:
        super().__init__(base, name, adapter)
        for part in "AB":
            self.register_buffer(
                f"first_{part}", torch.empty_like(self.parts[part].detach()), persistent=False
            )

    def first(self, generator: Callable[[str], Generator]) -> None:
        """The singular triples by a randomised SVD (Halko et al. 2011), halves of each value's root to A and to B."""
        matrix = _matrix(self.base_layer).detach().float().cpu().flatten(1)
        rank = min(self.parts["A"].shape[0], *matrix.shape)
        sought = min(rank + OVERSAMPLED, *matrix.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator("A").initial_seed())
            u, sigma, v = torch.svd_lowrank(matrix, q=sought, niter=ITERATIONS)
        root = (sigma[:rank] / self.strength).sqrt()
        for part, values in (("A", (v[:, :rank] * root).T), ("B", u[:, :rank] * root)):
            place = self.parts[part].detach().zero_()
            (place[:rank] if part == "A" else place[:, :rank]).flatten(1).copy_(values)
            getattr(self, f"first_{part}").copy_(place)

    def added(self, x: Tensor, out: Tensor) -> Tensor:
        began = _up(through(self.base_layer, x, self.first_A), self.first_B) * self.strength
        return super().added(x, out) - began

    def finished(self, parts: Parts) -> Parts:
        firsts = {part: getattr(self, f"first_{part}").float().cpu() for part in "AB"}
        return {
            "A": torch.cat([parts["A"], firsts["A"]], dim=0),
            "B": torch.cat([parts["B"], -firsts["B"]], dim=1),
        }


def layers(bases: Mapping[str, nn.Module], adapter: plan.Adapter) -> dict[str, Adapted]:
    kind: type[LowRank] = DoRALayer if adapter.dora else PiSSALayer if adapter.init == "pissa" else LoRALayer
    return {name: kind(base, name, adapter) for name, base in bases.items()}


def _up(inner: Tensor, b: Tensor) -> Tensor:
    return F.conv2d(inner, b) if b.ndim == 4 else F.linear(inner, b)


def _matrix(base: nn.Module) -> Tensor:
    """A frozen layer's weight, its rows first."""
    weight = weight_of(base)
    return weight if isinstance(base, nn.Linear | nn.Conv2d) else weight.T


def _less(out: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return out
    return out - (bias[:, None, None] if out.ndim == 4 else bias)


def _strength(rank: int, alpha: float, rslora: bool) -> float:
    return alpha / (math.sqrt(rank) if rslora else rank)


# ------------------------------------------------------------------------------------------------------------ files


def files(adapter: plan.Adapter) -> tuple[str, ...]:
    if not adapter.dora:
        return ("webui", "diffusers", "peft", "gguf")
    return ("peft",) if adapter.magnitudes == "rows" else ("webui",)


def strength(parts: Parts, module: str, adapter: plan.Adapter) -> float:
    return _strength(plan.rank_of(adapter, module), plan.alpha_of(adapter, module), adapter.rslora)


def read_strength(parts: Parts, alpha: float) -> float:
    return alpha / parts["A"].shape[0]


def fault(parts: Parts, module: str, adapter: plan.Adapter) -> str:
    a, b, rank = parts["A"], parts["B"], plan.rank_of(adapter, module) * _times(adapter)
    wanted = (b.shape[0],) if adapter.magnitudes == "rows" else (1, a.shape[1], *[1] * (a.ndim - 2))
    if [tuple(part.shape) for name, part in parts.items() if name == "M"] != [wanted] * adapter.dora:
        return "has magnitudes that are not as DoRA's"
    if a.shape[0] != rank or b.ndim != a.ndim or b.shape[1] != rank:
        return f"has A {tuple(a.shape)} and B {tuple(b.shape)}, not of rank {rank}"
    return ""


def network(adapter: plan.Adapter) -> tuple[str, int, dict[str, Any]]:
    if adapter.dora:
        return "lycoris.kohya", adapter.rank, {"algo": "lora", "dora_wd": True, "wd_on_output": False}
    return "networks.lora", adapter.rank * _times(adapter), {}


def peft_alpha(adapter: plan.Adapter) -> int:
    """The alpha that is written: the trained one where readers take it as it is meant, else the rank.

    vLLM and llama.cpp read only alpha / r for every module, and Ollama wants alpha as a JSON integer (facts/outputs.md,
    part 4): rsLoRA, patterns of ranks and an alpha that is no integer go into the B matrices.
    """
    is_plain = not (adapter.rslora or adapter.ranks or adapter.alphas) and float(adapter.alpha).is_integer()
    return int(adapter.alpha) if is_plain else _largest(adapter)


def _largest(adapter: plan.Adapter) -> int:
    return _times(adapter) * max([adapter.rank, *(one.rank for one in adapter.ranks)])


def _times(adapter: plan.Adapter) -> int:
    """The rank in files, in ranks that are trained: PiSSA's have what it began as, too."""
    return 2 if adapter.init == "pissa" else 1


def in_peft(adapter: plan.Adapter) -> plan.Adapter:
    return attrs.evolve(
        adapter,
        rank=_largest(adapter),
        alpha=float(peft_alpha(adapter)),
        init="kaiming",
        rslora=False,
        ranks=(),
        alphas=(),
        dropout=0.0,
        rank_dropout=0.0,
        module_dropout=0.0,
    )


def for_peft(parts: Parts, module: str, adapter: plan.Adapter) -> Parts:
    """Of one rank everywhere: smaller ones are filled up with zeros."""
    rank = _largest(adapter)
    rest = strength(parts, module, adapter) / (peft_alpha(adapter) / rank)
    lacks = rank - parts["A"].shape[0]
    filled = {"A": F.pad(parts["A"], (0, 0, 0, lacks)), "B": F.pad(parts["B"] * rest, (0, lacks))}
    return {**parts, **filled}


def peft_config(modules: list[str], adapter: plan.Adapter) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": _largest(adapter),
        "lora_alpha": peft_alpha(adapter),
        "lora_dropout": adapter.dropout,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": adapter.dora,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
