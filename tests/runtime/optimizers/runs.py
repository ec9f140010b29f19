"""Small runs with each optimizer: four steps of a random language model."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from runtime import plan, preflight
from runtime.errors import Interrupted
from runtime.preflight import Where
from runtime.run import Options, run
from runtime.safeio.weights import open_weights

COMMON: dict[str, Any] = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01}
WANTED: dict[str, tuple[plan.Optimizer, float, int]] = {
    "adamw": (plan.AdamW(eps=1e-8, **COMMON), 1e-2, 2),
    "adafactor": (
        plan.Adafactor(
            beta1=0.0,
            decay_power=0.8,
            eps=1e-30,
            clip_threshold=1.0,
            scale_parameter=False,
            weight_decay=0.01,
        ),
        1e-2,
        0,
    ),
    "lion": (plan.Lion(**COMMON), 1e-2, 1),
    "prodigy": (
        plan.Prodigy(
            eps=1e-8,
            d0=1e-6,
            d_coef=4.0,
            growth_rate=0.0,
            bias_correction=False,
            safeguard_warmup=False,
            **COMMON,
        ),
        1.0,
        4,
    ),
    "schedule_free_adamw": (plan.ScheduleFreeAdamW(eps=1e-8, **COMMON), 5e-2, 2),
}
"""Each with a rate for the tests' problems, and how many numbers it keeps for one of a matrix (0: rows and columns)."""


def with_optimizer(of: plan.Plan, name: str, **changes: Any) -> plan.Plan:
    """The plan with another optimizer, and with `changes` to Train or Compute."""
    wanted, rate, _ = WANTED[name]
    fields = {field.name for field in attrs.fields(plan.Compute)}
    compute = {key: value for key, value in changes.items() if key in fields}
    train = {key: value for key, value in changes.items() if key not in fields}
    program = attrs.evolve(
        of.program,
        train=attrs.evolve(of.program.train, optimizer=wanted, learning_rate=rate, **train),
        compute=attrs.evolve(of.program.compute, **compute),
    )
    return plan.make(program, of.outputs, of.estimate)


def carried_out(
    of: plan.Plan, project: Path, folder: Path, fault: Callable[[int], None] = lambda step: None
) -> Path:
    """Run the plan in `folder`; where its files are."""
    places = Where(
        base=project / "base", data=project, output=folder, log=folder / "logs", cache=project / "cache"
    )
    preflight.check(of, places)
    return run(of, Options(where=places, fault=fault))


def stopped(of: plan.Plan, project: Path, folder: Path) -> None:
    """Run the plan until it is stopped after its second step."""

    def stop(at: int) -> None:
        if at == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        carried_out(of, project, folder, stop)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_weights(path) as file:
        return {name: file.load(name) for name in file}


def last(run: Path, file: str) -> dict[str, torch.Tensor]:
    """What the last checkpoint holds."""
    return tensors(run / "checkpoints" / "step-000004" / file)
