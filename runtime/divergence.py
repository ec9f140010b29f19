"""A step that goes wrong: it is left out and counted; then the run goes back, once, to a lower rate; then it stops.

- Wrong is a loss or gradient that is not finite. Wrong too is an explosion: the loss above `LOSS_TIMES` its median over
  the last steps and, in the same step, the gradient's norm above `NORM_TIMES` its own.
- A wrong step moves nothing: weights, optimizer and average stay, and the next samples are taken.
- `WRONGS` of them within `SPAN` steps: back to the last checkpoint of `save_steps` (or the first values) that a good
  step followed, and from there on with `LOWER` times the planned rate.
- `WRONGS` more: DivergedError, with the steps and their samples.

All of it follows from the plan and the steps' own numbers, and what was done is in the checkpoint's state: a run that
is killed on the way does the same again.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

import attrs

from runtime import checkpoint, log, processes, step
from runtime.errors import DivergedError, Problem
from runtime.optimizers import factor

if TYPE_CHECKING:
    from runtime.train import Run

SPAN = 20
"""Steps."""
WRONGS = 3

LOSS_TIMES = 4.0
"""A language model that knows nothing any more has a loss of ln(vocabulary), some five times a usual one."""
NORM_TIMES = 10.0
"""Most in 250 undisturbed steps of one picture each on the emoji base: 5.1 (and the loss 9.2, by itself)."""
SEEN = 20
"""Good steps that a median is taken over at least."""

LOWER = 0.1
"""What the rate is multiplied by after going back: a tenth is the next rate that people try."""


def wrong(state: checkpoint.State, loss: float, norm: float) -> str:
    """What is wrong with the step that is being taken; "" if nothing is."""
    if not math.isfinite(loss):
        return "loss is not finite"
    if not math.isfinite(norm):
        return "the gradient is not finite"
    if len(state.losses) < SEEN:
        return ""
    times_loss, times_norm = (
        value / (median(before) or math.inf) for value, before in ((loss, state.losses), (norm, state.norms))
    )
    if times_loss <= LOSS_TIMES or times_norm <= NORM_TIMES:
        return ""
    return f"loss is {times_loss:.0f} times, the gradient {times_norm:.0f} times its median"


def rate_factor(run: Run) -> float:
    """What the learning rates are multiplied by in the step that is being taken."""
    train, state = run.plan.program.train, run.state
    is_lower = state.lowered_from is not None and state.step >= state.lowered_from
    return factor(train.schedule, state.step, train.steps) * (LOWER if is_lower else 1.0)


def is_lost(state: checkpoint.State) -> bool:
    """Whether too many of the last steps went wrong."""
    return sum(one.step > state.step - SPAN for one in state.skipped) >= WRONGS


def go_back(run: Run) -> None:
    """Take up an earlier checkpoint at a lower rate. Raises DivergedError where that was done before."""
    state, root = run.state, run.folder / "checkpoints"
    if state.lowered_from is not None:
        raise stopped(
            run, f"this is after going back to step {state.lowered_from}, and {LOWER:g} of the rate"
        )
    # An earlier one will do where that one is damaged: the steps between are the same again.
    found = checkpoint.newest(root, run.plan.plan_hash, upto=state.good)
    if found is None:
        raise stopped(run, "there is no undamaged checkpoint to go back to")
    path, then = found
    said = (
        f"{WRONGS} of the last {SPAN} steps went wrong (up to step {state.step}): gone back to {path.name};"
        f" from step {state.good + 1} on, the learning rate is {LOWER:g} of the plan's"
    )
    run.trainee.optimizer = step.optimizer(run.trainee.family, run.trainee.masters, run.plan.program)
    checkpoint.restore(path, run.trainee)
    processes.wait()  # until all have read it
    if processes.first():
        checkpoint.drop_after(root, state.good)
    run.state = attrs.evolve(
        then,
        micro_batch=state.micro_batch,
        seconds=state.seconds,
        notes=(*state.notes, said),
        lowered_from=state.good,
    )
    run.metrics.rewind(then.step)
    log.warn(said)


def stopped(run: Run, why: str) -> DivergedError:
    """The report: each step that went wrong of late, its samples, and what is safe."""
    recent = [one for one in run.state.skipped if one.step > run.state.step - SPAN]
    hint = "lower train.learning_rate, or look at these samples"
    problems = [Problem(f"step {one.step}", f"{one.why} ({samples(run, one.step)})", hint) for one in recent]
    return DivergedError([*problems, Problem("", f"training stopped: {why}; {kept(run)}")])


def nothing_moves(run: Run) -> DivergedError:
    """The first step's gradient is zero."""
    what = f"the gradient is zero: nothing learns ({samples(run, 1)})"
    return DivergedError(Problem("step 1", what, "look at what adapter.targets names, and at these samples"))


def samples(run: Run, step: int) -> str:
    """A step's rate and where its samples are from; steps count from 1."""
    names = " ".join(dict.fromkeys(run.feed.names(run.feed.step(step - 1))))
    train = run.plan.program.train
    rate = train.learning_rate * factor(train.schedule, step - 1, train.steps)
    lowered = run.state.lowered_from
    return f"lr {rate * (LOWER if lowered is not None and step > lowered else 1):.1e}, samples {names}"


def kept(run: Run) -> str:
    """Which checkpoint a good step followed."""
    good = run.state.good
    if not good:
        return "no checkpoint after the first values is good"
    return f"the last good checkpoint is {checkpoint.folder(run.folder, good).name}"


def told(state: checkpoint.State) -> tuple[str, ...]:
    """What the manifest says of steps that were left out."""
    if not state.skipped:
        return ()
    steps = ", ".join(str(one.step) for one in state.skipped)
    return (f"left out because they went wrong: {len(state.skipped)} of {state.step} steps ({steps})",)
