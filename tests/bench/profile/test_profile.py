"""The profile adds up, and knows the machine's limit for each call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lorac.estimate.cards import Calibration, Measured
from lorac.estimate.record import Call
from tests.bench.profile import report
from tests.bench.profile.kinds import REST, kind
from tests.bench.profile.measure import PYTHON, limit, measured
from tests.bench.profile.step import Parts

MACHINE = Calibration(
    device="cpu",
    bandwidth=1e9,
    fp32=1e10,
    fp16=None,
    bf16=None,
    launch=0.0,
    measured=Measured(threads=1, versions={}, computing={}, moving={}, launch={}),
)


def call(flops: int, size: int) -> Call:
    return Call("mm", "", "forward", "float32", flops, size)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("aten::addmm", "products"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("convolution_backward", "convolutions"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::native_group_norm_backward", "norms"),
        ("aten::copy_", REST),
    ],
)
def test_operators_are_of_a_kind(operator: str, expected: str) -> None:
    assert kind(operator) == expected


def test_a_calls_limit_is_its_arithmetic_or_its_traffic_whichever_is_longer() -> None:
    assert limit(call(flops=10**10, size=1), MACHINE) == 1.0
    assert limit(call(flops=1, size=2 * 10**9), MACHINE) == 2.0


def test_parts_and_kinds_add_up() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    optimizer = torch.optim.AdamW(model.parameters())
    asked: list[int] = []

    def read(number: int) -> tuple[Any, int]:
        asked.append(number)
        return [({"x": torch.rand(32, 64)}, [0])], 1

    def learn(batches: Any, total: int) -> None:
        model(batches[0][0]["x"]).square().mean().backward()

    toy: Any = None
    parts = Parts(name="toy", of=toy, trainee=toy, read=read, learn=learn, move=optimizer.step)
    found = measured(parts, MACHINE, steps=2)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert found.kinds["products"] > 0 and found.kinds[PYTHON] >= 0
    # Forward, and the gradients of both weights and of the second layer's input.
    assert found.limits["products"] >= 5 * 2 * 32 * 64 * 64 / MACHINE.fp32
    assert found.calls["products"] == 5
    assert found.share > 0
    figures = {
        "command": "",
        "machine": {"processor": "", "threads": 1, "cores": 1},
        "versions": {"torch": ""},
        "limits": {"fp32": 1e10, "bf16": None, "bandwidth": 1e9},
        "steps": [
            {
                "name": "toy",
                "seconds": found.seconds,
                "share": found.share,
                "parts": found.parts,
                "kinds": found.kinds,
                "limits": found.limits,
                "calls": found.calls,
                "operators": found.operators,
            }
        ],
    }
    assert "| products |" in report.page(figures)
