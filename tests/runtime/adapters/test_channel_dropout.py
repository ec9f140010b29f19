"""What is dropped is a function of (seed, step, sample, module), and is what sd-scripts and LyCORIS drop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from runtime.adapters import adapted as layers
from runtime.adapters import attach
from runtime.adapters.dropout import ChannelDropout, aim
from tests.runtime.adapters.test_lora import adapter

X = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(1))


def added(x: Tensor, keys: list[int], method: str = "lora", **changed: float) -> Tensor:
    """What an adapter of random values adds to a layer's output in training."""
    model: nn.Module = nn.Sequential(nn.Linear(6, 8)).train()
    attach(model, "0", adapter(method=method, **changed))
    generator = torch.Generator().manual_seed(3)
    for part in layers.parameters(model).values():
        nn.init.normal_(part, generator=generator)
    aim(layers.drawn(model), keys, {})
    layer = layers.layers(model)["0"]
    assert isinstance(layer.base_layer, nn.Linear)
    return (model(x) - layer.base_layer(x)).detach()


@pytest.mark.parametrize("method", ["lora", "loha", "lokr"])
def test_neither_the_other_samples_nor_their_order_change_what_a_sample_loses(method: str) -> None:
    rates = {"rank_dropout": 0.5, "module_dropout": 0.3} | ({"dropout": 0.2} if method == "lora" else {})
    together = added(X, [7, 8, 9], method, **rates)
    alone = [added(X[at : at + 1], [key], method, **rates)[0] for at, key in ((2, 9), (0, 7), (1, 8))]

    assert torch.allclose(together[[2, 0, 1]], torch.stack(alone), atol=1e-5)
    assert not torch.allclose(together, added(X, [4, 5, 6], method, **rates), atol=1e-3)


def test_module_dropout_leaves_a_sample_to_the_base_or_changes_nothing() -> None:
    kept = added(X, [], module_dropout=0.5)
    dropped = added(X.repeat(20, 1, 1), list(range(60)), module_dropout=0.5)

    whole = [bool(torch.allclose(row, kept[at % 3], atol=1e-5)) for at, row in enumerate(dropped)]
    none = [not row.any() for row in dropped]
    assert all(a != b for a, b in zip(whole, none, strict=True))
    assert 18 <= sum(none) <= 42  # of 60, to three deviations


def test_rank_dropout_keeps_lora_s_mean_and_takes_rows_of_a_weight_s_change_as_they_are() -> None:
    ones = torch.ones(200, 4)
    keys = list(range(200))
    found = {}
    for scaled in (True, False):
        drop = ChannelDropout(0.25, 0.0, "x", -1, scaled).train()
        drop.aim(keys, {})
        found[scaled] = drop(ones)

    assert found[True].unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert found[False].unique().tolist() == [0.0, 1.0]
    assert found[False].mean().item() == pytest.approx(0.75, abs=0.05)
