"""LoRA as it is put on a layer: what it computes, and what it is trained by."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from runtime import plan
from runtime.adapters import lora


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
    assert lora.attach(model, "0", of) == ["0"]
    lora.initialise(model, "model", of, 0)
    return model, base


def test_rslora_divides_alpha_by_the_root_of_the_rank() -> None:
    model, base = adapted(adapter(rslora=True))
    a, b = lora.factors(model)["0"]
    nn.init.normal_(b)
    x = torch.randn(3, 6)

    assert torch.allclose(model(x), base(x) + 8 / 4**0.5 * x @ a.T @ b.T, atol=1e-5)
