"""What moves the weights, from the spec's words to the plan's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from lorac import spec
from runtime import plan

OPTIMIZERS: dict[type, Any] = {
    spec.AdamW: plan.AdamW,
    spec.Adafactor: plan.Adafactor,
    spec.Lion: plan.Lion,
    spec.Prodigy: plan.Prodigy,
    spec.ScheduleFreeAdamW: plan.ScheduleFreeAdamW,
}
"""The plan's part for the spec's: the same fields, in which None is 0."""


def optimizer_of(wanted: Any, bits: plan.StateBits) -> plan.Optimizer:
    """The plan's optimizer for one of the spec's, its state in so many bits."""
    given = {field.name: getattr(wanted, field.name) for field in attrs.fields(type(wanted))}
    made: plan.Optimizer = OPTIMIZERS[type(wanted)](
        state_bits=bits, **{name: 0.0 if value is None else value for name, value in given.items()}
    )
    return made


def optimizer_decisions(experiment: spec.Experiment, program: plan.Program) -> Iterator[plan.Decision]:
    """How weights move, where that is not AdamW alone."""
    optimizer, train = experiment.train.optimizer, program.train
    if not isinstance(optimizer, spec.AdamW):
        rate = f"learning rate {train.learning_rate:g}, {train.schedule.name}"
        yield plan.Decision(field="optimizer", value=type(optimizer).__name__, reason=rate)
    if train.ema:
        why = "samples, held-out losses and the LoRA are the average's"
        yield plan.Decision(field="weights averaged", value=f"decay {train.ema:g}", reason=why)
    if program.compute.paged_optimizer:
        why = "in the computer's memory between steps, as the spec says"
        yield plan.Decision(field="optimizer state", value="paged", reason=why)
