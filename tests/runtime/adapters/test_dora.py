"""DoRA: peft's arithmetic is the oracle."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from runtime.adapters import adapted as layers
from runtime.adapters import attach
from tests.runtime.adapters.test_lora import adapted, adapter

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def spread(model: nn.Module) -> None:
    """Values as after some training."""
    torch.manual_seed(2)
    parts = layers.parameters(model)
    nn.init.normal_(parts["0.B"])
    with torch.no_grad():
        parts["0.M"].mul_(torch.rand(5) + 0.5)


def test_the_layer_computes_and_learns_as_peft_s_own_does() -> None:
    ours, base = adapted(adapter(dora=True))
    spread(ours)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], use_dora=True, init_lora_weights=False)
    theirs = inject_adapter_in_model(config, nn.Sequential(copy.deepcopy(base)))
    layer = theirs[0]
    pairs = {
        "0.A": layer.lora_A["default"].weight,
        "0.B": layer.lora_B["default"].weight,
        "0.M": layer.lora_magnitude_vector["default"].weight,
    }
    parts = layers.parameters(ours)
    with torch.no_grad():
        for name, parameter in pairs.items():
            parameter.copy_(parts[name])

    outputs = [model(X) for model in (ours, theirs)]
    for output in outputs:
        output.square().sum().backward()
    assert torch.allclose(*outputs, atol=1e-5)
    for name, parameter in pairs.items():
        parts[name].requires_grad_(True)
        assert torch.allclose(parts[name].grad, parameter.grad, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_begins_exactly_at_the_base(dtype: torch.dtype) -> None:
    base = nn.Linear(6, 5).to(dtype)
    model = nn.Sequential(copy.deepcopy(base))
    of = adapter(dora=True)
    attach(model, "0", of)
    layers.initialise(model, "model", 0)

    assert layers.parameters(model)["0.M"].dtype is torch.float32
    assert torch.equal(model(X.to(dtype)), base(X.to(dtype)))


def test_at_weight_0_it_is_the_base_and_at_1_it_is_itself_again() -> None:
    model, base = adapted(adapter(dora=True))
    spread(model)
    trained = model(X)

    layers.weigh(model, 0.0)
    assert torch.equal(model(X), base(X))
    layers.weigh(model, 1.0)
    assert torch.equal(model(X), trained)
    assert all(parameter.requires_grad for parameter in layers.parameters(model).values())
