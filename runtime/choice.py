"""Which checkpoint is exported, and when a run ends early: pure functions of what was measured on what is held out.

The rule is the one-standard-error rule (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3): of
what is as good as the best, as far as can be told, the least trained. The error is that of paired differences, since
each checkpoint is measured on the same samples with the same noise.

A run keeps two checkpoints for it beside its newest ones: the chosen and the lowest. One that was neither is gone and
cannot be chosen later, so what is chosen never depends on how many others were kept.
"""

from __future__ import annotations

import attrs

from runtime import plan
from runtime.evaluate import Losses, difference

BEST = (
    "the earliest checkpoint whose held-out loss is within one standard error of the lowest, "
    "by paired differences on the same samples and noise"
)
LAST = "the last checkpoint"


@attrs.frozen(kw_only=True)
class Candidate:
    """A checkpoint that may be chosen: what was measured after `step` steps."""

    step: int
    losses: Losses


@attrs.frozen(kw_only=True)
class Standing:
    """How things stand after a checkpoint: `since` counts candidates after the one with the lowest loss."""

    chosen: Candidate
    lowest: Candidate
    since: int

    @property
    def steps(self) -> frozenset[int]:
        """The checkpoints that must stay."""
        return frozenset({self.chosen.step, self.lowest.step})


def follow(before: Standing | None, new: Candidate) -> Standing:
    """How things stand once `new`, a later checkpoint than all before, is measured too."""
    if before is None:
        return Standing(chosen=new, lowest=new, since=0)
    is_lower = difference(new.losses, before.lowest.losses)[0] < 0
    lowest = new if is_lower else before.lowest
    chosen = next(one for one in (before.chosen, before.lowest, new) if is_as_good(one, lowest))
    return Standing(chosen=chosen, lowest=lowest, since=0 if is_lower else before.since + 1)


def is_as_good(one: Candidate, lowest: Candidate) -> bool:
    """Whether its loss is within one standard error of the lowest."""
    gap, error = difference(one.losses, lowest.losses)
    return gap <= error


def is_followed(evaluation: plan.Evaluation) -> bool:
    """Whether a plan decides anything by what was measured."""
    return evaluation.choose == "best" or evaluation.patience > 0


def is_candidate(of: plan.Program, step: int) -> bool:
    """Whether the checkpoint after this step may be chosen: the plan says so, however many others are saved."""
    every = of.evaluation.every
    return step == of.train.steps or (every > 0 and step % every == 0)


def is_over(evaluation: plan.Evaluation, standing: Standing | None) -> bool:
    """Whether the patience is at its end: so many candidates in a row had no lower loss than the lowest before."""
    return standing is not None and 0 < evaluation.patience <= standing.since
