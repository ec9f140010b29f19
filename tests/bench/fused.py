"""Our LoRA layer against peft's, forward and backward: `python -m tests.bench.fused`.

- Memory: peak bytes of live tensors above the frozen weights, traced on fake tensors and measured on real ones.
- Time: the processor's, rounds in turn in one process; the ratio of medians.
- Gradients: of both layers with the same weights and the same dropout masks, the largest difference by the largest
  gradient.

peft is taken as `get_peft_model` puts it on (in sixteen bits it keeps its matrices, and a copy of each input, in
float32), and with those casts left out.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from lorac.estimate.trace import materialize, measure, trace
from runtime import adapters, plan
from runtime.adapters import adapted
from runtime.adapters.dropout import aim
from runtime.safeio.atomic import write_text

RANK, ALPHA = 16, 24
SAMPLES, TOKENS, WIDTH, BLOCKS = 2, 512, 512, 4
TARGETS = ("q", "k", "v", "o")


class Block(nn.Module):
    """Three linear layers of one input, and one behind them: attention's, without the attention."""

    def __init__(self) -> None:
        super().__init__()
        for name in TARGETS:
            setattr(self, name, nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.o(F.softmax(self.q(x), dim=-1) * self.k(x) + self.v(x))


def model(dtype: torch.dtype) -> nn.Sequential:
    return nn.Sequential(*(Block() for _ in range(BLOCKS))).to(dtype)


@attrs.frozen(kw_only=True)
class Setting:
    dtype: str
    dropout: float

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == "bf16" else torch.float32


def with_peft(base: nn.Module, setting: Setting, casts: bool = True) -> nn.Module:
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=setting.dropout,
        target_modules=list(TARGETS),
        init_lora_weights=False,
    )
    return get_peft_model(base, config, autocast_adapter_dtype=casts)  # type: ignore[arg-type]


def without_casts(base: nn.Module, setting: Setting) -> nn.Module:
    return with_peft(base, setting, casts=False).to(setting.torch_dtype)


def ours(base: nn.Module, setting: Setting) -> nn.Module:
    of = plan.Adapter(
        method="lora",
        rank=RANK,
        alpha=float(ALPHA),
        dropout=setting.dropout,
        init="kaiming",
        targets={"model": r".*\.[qkvo]"},
        modules={"model": BLOCKS * len(TARGETS)},
    )
    adapters.attach(base, of.targets["model"], of)
    aim(adapted.drawn(base), range(SAMPLES), {})
    return base


KINDS: dict[str, Callable[[nn.Module, Setting], nn.Module]] = {
    "peft": with_peft,
    "peft, casts left out": without_casts,
    "lorac": ours,
}


def step(adapted_model: nn.Module, x: Tensor) -> None:
    adapted_model.train()
    adapted_model(x).float().square().mean().backward()
    for parameter in adapted_model.parameters():
        parameter.grad = None


def making(kind: str, setting: Setting) -> Callable[[], Callable[[], None]]:
    """A step of the kind for the tracer, made on the meta device."""
    with torch.device("meta"):
        made = KINDS[kind](model(setting.torch_dtype), setting)

    def make() -> Callable[[], None]:
        materialize(made)
        if kind == "lorac":
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.zero_()
        x = torch.zeros(SAMPLES, TOKENS, WIDTH, dtype=setting.torch_dtype, requires_grad=True)
        return lambda: step(made, x)

    return make


def peaks(kind: str, setting: Setting) -> dict[str, int]:
    """Peak bytes above what lies there all the time, traced and measured."""
    found = {}
    for name, how in (("traced", lambda make: trace(make, steps=2, device="cpu")), ("measured", measure)):
        of = how(making(kind, setting))
        kinds = of.peak.by_kind()
        frozen = kinds.get("base weights", 0) + kinds.get("adapter", 0)
        found[name] = of.peak_bytes - frozen
    return found


def seconds(setting: Setting, rounds: int) -> dict[str, float]:
    """Median seconds of the processor for a step of each kind, the kinds in turn."""
    torch.manual_seed(0)
    base = model(setting.torch_dtype)
    models = {kind: put_on(copy.deepcopy(base), setting) for kind, put_on in KINDS.items()}
    _fill(models["lorac"])
    x = torch.randn(SAMPLES, TOKENS, WIDTH).to(setting.torch_dtype).requires_grad_()
    taken: dict[str, list[float]] = {kind: [] for kind in models}
    for at in range(rounds + 1):
        for kind, made in models.items():
            start = time.process_time()
            step(made, x)
            if at:  # the first is for warming up
                taken[kind].append(time.process_time() - start)
    return {kind: statistics.median(times) for kind, times in taken.items()}


def difference(setting: Setting) -> float:
    """The largest difference of gradients of A, B and the input between peft's layer and ours, by the largest one."""
    torch.manual_seed(0)
    base = model(setting.torch_dtype)
    mine, theirs = ours(copy.deepcopy(base), setting), without_casts(copy.deepcopy(base), setting)
    _fill(mine)
    x = torch.randn(SAMPLES, TOKENS, WIDTH).to(setting.torch_dtype)
    pairs = list(_pairs(mine, theirs))
    found = []
    for made in (mine, theirs):
        given = x.clone().requires_grad_()
        made.train()
        made(given).float().square().sum().backward()
        found.append(given.grad)
    slopes = [found, *([a.grad, b.grad] for a, b in pairs)]
    return max(((a.float() - b.float()).abs().max() / b.float().abs().max()).item() for a, b in slopes)


def _pairs(mine: nn.Module, theirs: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Each of our matrices with peft's, which is given its values; peft drops by our masks."""
    for path, layer in adapted.layers(mine).items():
        other: Any = theirs.get_submodule(f"base_model.model.{path}")
        other.lora_dropout["default"] = layer.dropout
        for part in "AB":
            place = getattr(other, f"lora_{part}")["default"].weight
            with torch.no_grad():
                place.copy_(layer.parts[part])
            yield layer.parts[part], place


def _fill(made: nn.Module) -> None:
    with torch.no_grad():
        for part in adapted.parameters(made).values():
            nn.init.normal_(part, std=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fused", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file; without it the figures are printed alone")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for dtype, dropout in itertools.product(("fp32", "bf16"), (0.0, 0.1)):
        setting = Setting(dtype=dtype, dropout=dropout)
        times = seconds(setting, given.rounds)
        for kind in KINDS:
            row = {"kind": kind, **attrs.asdict(setting), **peaks(kind, setting), "seconds": times[kind]}
            rows.append({**row, "time_by_peft": times[kind] / times["peft"]})
            print(json.dumps(rows[-1]), flush=True)
        rows.append({"gradients differ by": difference(setting), **attrs.asdict(setting)})
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        write_text(given.out, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
