"""Optimizers: one file each, one line each in this closed registry; and learning-rate curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

import torch
from torch import nn

from runtime import plan
from runtime.errors import PlanError, Problem

OPTIMIZERS = {
    "adamw": "runtime.optimizers.adamw",
    "adafactor": "runtime.optimizers.adafactor",
    "lion": "runtime.optimizers.lion",
    "prodigy": "runtime.optimizers.prodigy",
    "schedule_free_adamw": "runtime.optimizers.schedule_free_adamw",
}

Groups = list[dict[str, Any]]
"""One for each learning rate: `params`, `lr`."""


class Rule(Protocol):
    """One way to move weights by their gradients.

    Of an optimizer's groups, numbers and tensors are saved and restored; of its state by parameter, too. One with
    `train` and `eval` keeps an average of the weights (`runtime.average`).
    """

    def build(self, groups: Groups, wanted: Any) -> torch.optim.Optimizer:
        """The optimizer with the plan's numbers. It works on lists of tensors on every device where it can on a
        card (`foreach`), so that the trace sees the same buffers. Raises PlanError for what it cannot do."""


def build_optimizer(
    wanted: plan.Optimizer, parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """The plan's optimizer over named parameters, one group for each rate; `base_lr` keeps the undecayed rate.

    Raises PlanError for a name that is not in the registry, and for what the optimizer cannot do.
    """
    if wanted.name not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise PlanError(Problem("train.optimizer.name", f"must be one of {known}, got {wanted.name!r}"))
    groups: Groups = [
        {
            "params": [p for name, p in parameters.items() if rates[name] == rate],
            "lr": rate,
            "base_lr": rate,
        }
        for rate in dict.fromkeys(rates.values())
    ]
    return cast(Rule, import_module(OPTIMIZERS[wanted.name])).build(groups, wanted)


def factor(schedule: plan.Schedule, step: int, steps: int) -> float:
    """The learning rate's factor at optimizer step `step` (0-based) of `steps`.

    Linear warm-up from 1/warmup, then constant, linear, cosine (Loshchilov and Hutter 2017) or polynomial to zero.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return (1 - done) ** (schedule.power if schedule.name == "polynomial" else 1.0)
