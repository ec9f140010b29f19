"""The loop: from the trainee's first step, or a checkpoint's, to the last."""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import psutil
import torch

from runtime import checkpoint, divergence, evaluate, log, plan
from runtime.errors import Interrupted, MachineError, Problem
from runtime.media import Feed
from runtime.step import Trainee, gradients, update

LOSS_WINDOW = 100
"""Steps that the shown loss is averaged over, and an exploding one is held against."""


@attrs.define(kw_only=True)
class Run:
    """A run in progress. `at_checkpoint` is called with the step after each periodic checkpoint's state is known."""

    plan: plan.Plan
    trainee: Trainee
    feed: Feed
    folder: Path
    metrics: log.Metrics
    state: checkpoint.State
    lora_files: Callable[[int], dict[str, bytes]]
    show: Callable[[int], None]
    fault: Callable[[int], None] = lambda step: None


def train(run: Run) -> checkpoint.State:
    """Train to the plan's last step. Raises Interrupted (all saved), DivergedError or MachineError."""
    program = run.plan.program.train
    measure(run)
    if run.state.step == 0:
        first_checkpoint(run)
    with log.Bar("step", program.steps, run.state.step) as bar, stoppable() as stop:
        while run.state.step < program.steps:
            began = time.monotonic()
            rate = program.learning_rate * divergence.rate_factor(run)
            loss, norm, wrong = one_step(run, run.feed.step(run.state.step))
            spent = time.monotonic() - began
            run.state = after(run, loss, norm, wrong, spent)
            step = run.state.step
            values = {"loss": loss, "grad_norm": norm, "lr": rate, "seconds": spent, "memory": memory_now()}
            run.metrics.scalars(step, {name: value for name, value in values.items() if math.isfinite(value)})
            bar.step(note=note(run, bar.rate()))
            if divergence.is_lost(run.state):
                divergence.go_back(run)
                bar.back(run.state.step)
                continue
            if stop():
                interrupted(run)
            if due(step, run.plan.outputs.save_steps) or step == program.steps:
                measure(run)
                save(run)  # the last step too: whatever happens after it, nothing is lost
            if due(step, run.plan.outputs.samples.every) and step < program.steps:
                run.show(step)
    if not run.state.losses:
        raise divergence.stopped(run, "no step moved anything")
    return run.state


def first_checkpoint(run: Run) -> None:
    """The values before the first step, to go back to; and a folder that cannot be written to shows at once."""
    checkpoint.save(run.folder / "checkpoints", run.trainee, run.state, run.plan.plan_hash, {})


def one_step(run: Run, samples: Sequence[Any]) -> tuple[float, float, str]:
    """One optimizer step: its loss, its gradient's norm, and what was wrong, in which case nothing was moved.

    Where memory runs out, it is done again with the plan's next smaller micro-batch.
    """
    while True:
        try:
            run.fault(run.state.step)
            groups = run.feed.cut(samples, run.state.micro_batch)
            batches = ((run.feed.batch(group), [sample.key for sample in group]) for group in groups)
            total = run.feed.weigh(samples)
            loss, norm = (value.item() for value in gradients(run.trainee, batches, total))
            break
        except torch.OutOfMemoryError as error:
            step_down(run, error)
    if norm == 0 and run.state.step == 0:
        raise divergence.nothing_moves(run)
    wrong = divergence.wrong(run.state, loss, norm)
    if wrong:
        forget(run.trainee)
    else:
        update(run.trainee, divergence.rate_factor(run))
    return loss, norm, wrong


def after(run: Run, loss: float, norm: float, wrong: str, spent: float) -> checkpoint.State:
    """The state after a step of `spent` seconds."""
    state = attrs.evolve(run.state, step=run.state.step + 1, seconds=run.state.seconds + spent)
    if wrong:
        log.warn(f"step {state.step} is left out: {wrong} ({divergence.samples(run, state.step)})")
        return attrs.evolve(state, skipped=(*state.skipped, checkpoint.Skipped(step=state.step, why=wrong)))
    return attrs.evolve(
        state,
        losses=(*state.losses[1 - LOSS_WINDOW :], loss),
        norms=(*state.norms[1 - LOSS_WINDOW :], norm),
        good=run.state.step if due(run.state.step, run.plan.outputs.save_steps) else state.good,
    )


def forget(of: Trainee) -> None:
    """Drop a step's gradients."""
    if of.stream is not None:
        of.stream.rest()
    of.optimizer.zero_grad(set_to_none=True)
    for weight in of.weights.values():
        weight.grad = None


def step_down(run: Run, error: torch.OutOfMemoryError) -> None:
    """Take the plan's next fallback: same samples, same effective batch, smaller micro-batch."""
    train, micro = run.plan.program.train, run.state.micro_batch
    smaller = [f for f in train.fallbacks if f.micro_batch < micro]
    planned, real = planned_memory(run.plan), peak_memory()
    said = f"out of memory at step {run.state.step + 1}: planned {log.size(planned)}, used {log.size(real)}"
    if not smaller:
        hint = (
            "free memory on the card, or plan with less: lorac plan SPEC --card "
            + f"{real * 0.9 / 2**30:.0f}GB"
        )
        raise MachineError(Problem("memory", f"{said}; no smaller micro-batch is left", hint)) from error
    steps_down = (
        f"{said}; going on with micro-batch {smaller[0].micro_batch} × accumulation {smaller[0].accumulation}"
    )
    notes = (*run.state.notes, steps_down)
    run.state = attrs.evolve(run.state, micro_batch=smaller[0].micro_batch, notes=notes)
    forget(run.trainee)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warn(steps_down)


def measure(run: Run) -> None:
    """The loss of what is held out, once a checkpoint and before the first step; nothing where nothing is held out."""
    step = run.state.step
    if str(step) in run.state.held_out:
        return
    found = evaluate.held_out(run.trainee, run.feed.held_out(run.state.micro_batch))
    if found is None:
        return
    run.metrics.scalars(step, {"held_out/loss": found.loss, "held_out/perplexity": found.perplexity})
    log.info(f"Held-out loss {found.loss:.4f}, perplexity {found.perplexity:.2f} after step {step}")
    run.state = attrs.evolve(run.state, held_out={**run.state.held_out, str(step): found})


def save(run: Run) -> Path:
    """Write a checkpoint of the present state, and drop those that are too old."""
    began = time.monotonic()
    root = run.folder / "checkpoints"
    step = run.state.step
    keep, last = run.plan.outputs.keep_checkpoints, run.plan.program.train.steps
    checkpoint.prune(
        root, keep, run.state.good
    )  # before too, so that no more than one is there beside what is kept
    path = checkpoint.save(root, run.trainee, run.state, run.plan.plan_hash, run.lora_files(step))
    checkpoint.prune(root, keep, run.state.good if step < last else None)
    run.metrics.scalars(step, {"checkpoint_seconds": time.monotonic() - began})
    log.info(f"Saved {path.parent.parent.name}/checkpoints/{path.name}")
    return path


def interrupted(run: Run) -> None:
    """Save and leave, saying how to go on."""
    path = save(run)
    what = f"stopped after step {run.state.step} of {run.plan.program.train.steps}; everything is in {path}"
    raise Interrupted(Problem("", what, "run the same command again to go on"))


def due(step: int, every: int) -> bool:
    """Whether something that happens each `every` steps (0: never) happens after this one."""
    return every > 0 and step % every == 0


def note(run: Run, rate: float) -> str:
    """The bar's words: loss over the last steps, speed, memory now / planned."""
    loss = sum(run.state.losses) / max(1, len(run.state.losses))
    used, planned = log.size(memory_now()), log.size(planned_memory(run.plan))
    return f"loss {loss:.4f} {rate:.2f} it/s mem {used} / {planned}"


def planned_memory(of: plan.Plan) -> int:
    """What `memory_now` is held against: the card's peak, or the process's own on a CPU."""
    return of.estimate.peak_bytes if of.program.compute.device == "cuda" else of.estimate.host_bytes


def memory_now() -> int:
    """Bytes in use: what the allocator holds on a card, or what the process has resident."""
    if torch.cuda.is_initialized():
        return torch.cuda.memory_reserved()
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """Most bytes that were in use."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved()
    # Not getrusage: its peak is still that of the program that started this one in its own place (Linux, exec).
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else memory_now()


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a question that the loop asks; the second one ends at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        log.warn("stopping after this step; once more to stop at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
