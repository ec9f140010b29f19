"""What is sampled, evaluated and exported: the weights that learn, or their average over the steps.

An average is an exponential moving one beside any optimizer, or the one that a schedule-free optimizer keeps itself.
Either way the weights that learn are back afterwards to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from runtime.step import Trainee


@attrs.define
class Ema:
    """An exponential moving average of the masters: float32, by name. `updates` counts the steps it has seen."""

    decay: float
    shadow: dict[str, Tensor]
    updates: int = 0


def ema_of(masters: Mapping[str, nn.Parameter], decay: float) -> Ema | None:
    """An average that begins at the masters' first values; None where the plan has none (decay 0)."""
    if not decay:
        return None
    return Ema(decay, {name: master.detach().clone() for name, master in masters.items()})


def follow(ema: Ema, masters: Mapping[str, nn.Parameter]) -> None:
    """Take one step's weights into the average.

    Step t's decay is at most (1 + t) / (10 + t), so that the first values are soon forgotten (diffusers' `EMAModel`
    and TensorFlow's `ExponentialMovingAverage` with `num_updates`).
    """
    ema.updates += 1
    decay = min(ema.decay, (1 + ema.updates) / (10 + ema.updates))
    weights = tuple(masters[name].detach() for name in ema.shadow)
    get_ema_multi_avg_fn(decay)(tuple(ema.shadow.values()), weights, None)


@runtime_checkable
class Averaging(Protocol):
    """An optimizer that keeps an average of its own: `eval` puts it in the parameters' place, `train` ends that."""

    def eval(self) -> None: ...

    def train(self) -> None: ...


@contextmanager
def shown(of: Trainee) -> Iterator[None]:
    """Inside, masters and weights have the values that are sampled, evaluated and exported."""
    if of.ema is not None:
        with _values(of, of.ema.shadow):
            yield
    elif isinstance(of.optimizer, Averaging):
        # On copies: `train` would bring the weights back with other last bits than they had.
        with _values(of, {name: master.detach().clone() for name, master in of.masters.items()}):
            of.optimizer.eval()
            compute_with(of)
            try:
                yield
            finally:
                of.optimizer.train()
    else:
        yield


@contextmanager
def _values(of: Trainee, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Have these tensors in the masters' place."""
    learning = {name: master.data for name, master in of.masters.items()}
    for name, master in of.masters.items():
        master.data = values[name]
    compute_with(of)
    try:
        yield
    finally:
        for name, master in of.masters.items():
            master.data = learning[name]
        compute_with(of)


@torch.no_grad()
def compute_with(of: Trainee) -> None:
    """Copy the masters to the weights that compute."""
    for name, weight in of.weights.items():
        if weight is not of.masters[name]:
            weight.copy_(of.masters[name])
