"""Optimizers: one file each, one line each in this closed registry; and learning-rate curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

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

    Linear warm-up from 1/warmup, then the curve, whose lowest point is `min_ratio`.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    curve = _curve(schedule, max(1, steps - schedule.warmup_steps))
    return schedule.min_ratio + (1 - schedule.min_ratio) * curve(step - schedule.warmup_steps)


REX = 0.9
"""How long a REX curve stays high. The paper's is 0.5 (Chen et al. 2021, arXiv:2107.04197); its own code (IvanVassi's
REX_LR), OneTrainer and axolotl have this one."""


@cache
def _curve(schedule: plan.Schedule, steps: int) -> Callable[[int], float]:
    """Steps after the warm-up, of `steps` -> the factor, which falls from 1 to 0."""
    match schedule.name:
        case "constant":
            return lambda step: 1.0
        case "cosine":  # Loshchilov and Hutter 2017
            return lambda step: 0.5 * (1 + math.cos(math.pi * (step / steps)))
        case "rex":
            return lambda step: (1 - step / steps) / (1 - REX + REX * (1 - step / steps))
        case "cosine_with_restarts":
            from transformers import get_cosine_with_hard_restarts_schedule_with_warmup as restarts

            return _of_transformers(restarts, num_training_steps=steps, num_cycles=schedule.cycles)
        case "warmup_stable_decay":
            from transformers import get_wsd_schedule as stable

            return _of_transformers(stable, num_training_steps=steps, num_decay_steps=schedule.decay_steps)
    power = schedule.power if schedule.name == "polynomial" else 1.0
    return lambda step: (1 - step / steps) ** power


def _of_transformers(make: Callable[..., LambdaLR], **numbers: int) -> Callable[[int], float]:
    """A schedule of transformers as the function of the step that it is: lorac moves the rates itself."""
    nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return cast(Callable[[int], float], make(nothing, num_warmup_steps=0, **numbers).lr_lambdas[0])
