"""LoRA as it is put on a layer: what it computes, and what it is trained by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from runtime import plan
from runtime.adapters import adapted as layers
from runtime.adapters import attach
from runtime.adapters.dropout import aim


def adapter(**changed: Any) -> plan.Adapter:
    """Rank 4, alpha 8, on the layer "0"."""
    given: dict[str, Any] = {
        "method": "lora",
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "init": "kaiming",
        "targets": {"model": "0"},
        "modules": {"model": 1},
    }
    return plan.Adapter(**{**given, **changed})


def adapted(of: plan.Adapter) -> tuple[nn.Module, nn.Linear]:
    """A layer of 6 to 5 with the adapter's first values, and the same layer without."""
    torch.manual_seed(0)
    base = nn.Linear(6, 5)
    model = nn.Sequential(nn.Linear(6, 5))
    model[0].load_state_dict(base.state_dict())
    assert attach(model, "0", of) == ["0"]
    layers.initialise(model, "model", 0)
    return model, base


def test_rslora_divides_alpha_by_the_root_of_the_rank() -> None:
    model, base = adapted(adapter(rslora=True))
    a, b = layers.parameters(model).values()
    nn.init.normal_(b)
    x = torch.randn(3, 6)

    assert torch.allclose(model(x), base(x) + 8 / 4**0.5 * x @ a.T @ b.T, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_linear_layer_computes_and_learns_as_peft_s_does(dropout: float) -> None:
    """With dropout: as peft's layer does of what our mask leaves."""
    ours, base = adapted(adapter(dropout=dropout))
    parts = layers.parameters(ours)
    nn.init.normal_(parts["0.B"])
    aim(layers.drawn(ours), [5, 6, 7], {})
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], lora_dropout=dropout)
    theirs = inject_adapter_in_model(config, nn.Sequential(copy.deepcopy(base)))
    theirs[0].lora_dropout["default"] = layers.layers(ours)["0"].dropout
    pairs = {name: getattr(theirs[0], f"lora_{name}")["default"].weight for name in "AB"}
    with torch.no_grad():
        for name, parameter in pairs.items():
            parameter.copy_(parts[f"0.{name}"])
    outputs, slopes = [], []
    for model in (ours, theirs):
        x.grad = None
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
        slopes.append(x.grad)

    assert torch.allclose(*outputs, atol=1e-5)
    assert torch.allclose(*slopes, atol=1e-4)
    for name, parameter in pairs.items():
        assert torch.allclose(parts[f"0.{name}"].grad, parameter.grad, rtol=1e-4, atol=1e-4), name


def test_pissa_begins_at_the_base_with_its_largest_singular_values() -> None:
    model, base = adapted(adapter(init="pissa", rank=2, alpha=3.0))
    layer = layers.layers(model)["0"]
    u, sigma, v = torch.linalg.svd(base.weight)
    x = torch.randn(3, 6)

    assert torch.equal(model(x), base(x))
    largest = (u[:, :2] * sigma[:2]) @ v[:2]
    assert torch.allclose(3.0 / 2 * layer.parts["B"] @ layer.parts["A"], largest, atol=1e-4)


def test_the_last_pattern_that_matches_a_module_gives_its_rank_and_alpha() -> None:
    of = adapter(
        ranks=(
            plan.RankOf(pattern=".*", rank=2),
            plan.RankOf(pattern="0", rank=3),
            plan.RankOf(pattern="1", rank=5),
        ),
        alphas=(plan.AlphaOf(pattern="[0-9]", alpha=6.0),),
    )
    model, _ = adapted(of)
    assert {name: tuple(part.shape) for name, part in layers.parameters(model).items()} == {
        "0.A": (3, 6),
        "0.B": (5, 3),
    }
    assert plan.alpha_of(of, "0") == 6.0
    assert plan.alpha_of(of, "elsewhere") == 8.0
