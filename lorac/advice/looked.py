"""What one rule found in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from lorac.advice.thresholds import LEAST_FASTER, MOST_FASTER, SLOWER
from runtime import plan

Kind = Literal["weak", "overfitted", "unstable"]


@attrs.frozen
class Moved:
    """A field's value, and the one to try."""

    old: Any
    new: Any


Moves = Mapping[str, Moved]
"""Dotted field of the spec -> how it moves."""


def words(moves: Moves) -> str:
    """Changes as a line has them."""
    return "; ".join(f"{field}: {moved.old} -> {moved.new}" for field, moved in moves.items())


@attrs.frozen(kw_only=True)
class Looked:
    """`figure`: what was measured, and the bound; `unknown`: why it could not be. `finding`: what is wrong where
    `is_wrong`; `moves` and `todo`: what to do then, fields and what is no field. `source`: why the bound."""

    about: str
    kind: Kind
    figure: str = ""
    unknown: str = ""
    is_wrong: bool = False
    finding: str = ""
    source: str = ""
    todo: str = ""
    moves: Moves = attrs.field(factory=dict)

    @property
    def change(self) -> str:
        """What to do, in words."""
        return "; ".join(filter(None, [words(self.moves), self.todo]))


# ----------------------------------------------------------------------------------------------------------- remedies


def faster(of: plan.Plan, factor: float) -> Moves:
    """A higher learning rate; more steps where the optimizer finds its own rate."""
    times = min(MOST_FASTER, max(LEAST_FASTER, factor))
    train = of.program.train
    if isinstance(train.optimizer, plan.Prodigy):
        return {"train.steps": Moved(train.steps, round(train.steps * LEAST_FASTER))}
    return _rate(train.learning_rate, min(1.0, train.learning_rate * times))


def slower(of: plan.Plan) -> Moves:
    """A lower learning rate."""
    return _rate(of.program.train.learning_rate, of.program.train.learning_rate * SLOWER)


def shorter(of: plan.Plan, steps: int) -> Moves:
    """Fewer steps; none where there are no fewer."""
    return {"train.steps": Moved(of.program.train.steps, steps)} if 0 < steps < of.program.train.steps else {}


def _rate(old: float, new: float) -> Moves:
    rounded = float(f"{new:.2g}")
    return {"train.learning_rate": Moved(old, rounded)} if rounded != old else {}
