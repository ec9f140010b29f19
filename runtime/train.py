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

from runtime import checkpoint, choice, divergence, evaluate, heap, log, plan, processes
from runtime.errors import Interrupted, Lost, MachineError, Problem
from runtime.families.protocol import Batch
from runtime.media import Feed
from runtime.step import Trainee, gradients, update

LOSS_WINDOW = 100
"""Steps that the shown loss is averaged over, and an exploding one is held against."""


@attrs.define(kw_only=True)
class Run:
    """A run in progress. `lora_files` gives what else is kept in a checkpoint of a step, `show` draws samples after it;
    `fault` is called in each step, for tests."""

    plan: plan.Plan
    trainee: Trainee
    feed: Feed
    folder: Path
    metrics: log.Metrics | log.Silence
    state: checkpoint.State
    lora_files: Callable[[int], dict[str, bytes]]
    show: Callable[[int], None]
    fault: Callable[[int], None] = lambda step: None
    largest: int = 0
    """Elements of the largest micro-batch so far."""


def train(run: Run) -> checkpoint.State:
    """Train to the plan's last step, or until its patience is at its end.

    Raises Interrupted (all saved), DivergedError or MachineError.
    """
    program = run.plan.program.train
    if run.state.step == 0:
        measure(run)
        first_checkpoint(run)
    with saying_what_is_safe(run), log.Bar("step", program.steps, run.state.step) as bar, stoppable() as stop:
        while run.state.step < program.steps and not is_over(run):
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
            if is_due(run.plan, step):
                measure(run)  # before it is left, too: what may be chosen is never without its loss
            is_stopped = processes.any_of(stop())
            if is_due(run.plan, step) or is_stopped:
                path = save(run)  # the last step too: whatever happens after it, nothing is lost
            if is_stopped:
                interrupted(run, path)
            if due(step, run.plan.outputs.samples.every) and step < program.steps:
                run.show(step)
    if not run.state.losses:
        raise divergence.stopped(run, "no step moved anything")
    return run.state


def first_checkpoint(run: Run) -> None:
    """The values before the first step, to go back to; and a folder that cannot be written to shows at once."""
    if processes.first():
        checkpoint.save(run.folder / "checkpoints", run.trainee, run.state, run.plan.plan_hash, {})
    processes.wait()


def one_step(run: Run, samples: Sequence[Any]) -> tuple[float, float, str]:
    """One optimizer step: its loss, its gradient's norm, and what was wrong, in which case nothing was moved.

    Where memory runs out, it is done again with the plan's next smaller micro-batch.
    """
    total = run.feed.weigh(samples)
    while True:
        try:
            found = gradients(run.trainee, batches(run, samples), total, spare(run, samples))
            loss, norm = (value.item() for value in found)
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
    state = attrs.evolve(
        state,
        losses=(*state.losses[1 - LOSS_WINDOW :], loss),
        norms=(*state.norms[1 - LOSS_WINDOW :], norm),
    )
    if not is_due(run.plan, run.state.step):
        return state
    standing = run.state.standing  # as it was at that checkpoint: what it takes to go on from there
    needed = {run.state.step} | (standing.steps if standing else frozenset())
    return attrs.evolve(state, good=run.state.step, needed=tuple(sorted(needed)))


def forget(of: Trainee) -> None:
    """Drop a step's gradients."""
    if of.stream is not None:
        of.stream.rest()
    of.optimizer.zero_grad(set_to_none=True)
    for weight in of.weights.values():
        weight.grad = None


def batches(run: Run, samples: Sequence[Any]) -> Iterator[tuple[Batch, list[int]]]:
    """This process's share of a step's micro-batches, each with its samples' keys."""
    run.fault(run.state.step)
    for group in processes.share(run.feed.cut(samples, run.state.micro_batch)):
        batch = run.feed.batch(group)
        make_room(run, batch)
        yield batch, [sample.key for sample in group]


def make_room(run: Run, batch: Batch) -> None:
    """Before a micro-batch that is larger than all before it, give back the holes that those left in main memory.

    What a larger one needs fits into few of them, so they would stay beside it (docs/LOG.md). There are few such
    micro-batches, so it takes next to no time.
    """
    size = sum(tensor.numel() for tensor in batch.values())
    if run.plan.program.compute.device == "cpu" and size > run.largest:
        heap.give_back()
        run.largest = size


def spare(run: Run, samples: Sequence[Any]) -> Iterator[tuple[Batch, list[int]]]:
    """What this process goes through besides, where blocks are split and others have one micro-batch more."""
    if run.plan.program.compute.sharded:
        first, *_ = groups = run.feed.cut(samples, run.state.micro_batch)
        for _ in range(processes.spare(len(groups))):
            yield run.feed.batch(first), [sample.key for sample in first]


def step_down(run: Run, error: torch.OutOfMemoryError) -> None:
    """Take the plan's next fallback: same samples, same effective batch, smaller micro-batch."""
    train, micro = run.plan.program.train, run.state.micro_batch
    smaller = [f for f in train.fallbacks if f.micro_batch < micro]
    planned, real = plan.planned_memory(run.plan), peak_memory()
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


@contextmanager
def saying_what_is_safe(run: Run) -> Iterator[None]:
    """Where another process of the run is lost, name the step and the checkpoint that the run goes on from."""
    try:
        yield
    except Lost as error:
        safe = f"at step {run.state.step + 1}; {divergence.kept(run)}"
        raise Lost(attrs.evolve(one, what=f"{one.what} {safe}") for one in error.problems) from error


def measure(run: Run) -> None:
    """The loss of what is held out, once a checkpoint and before the first step; nothing where nothing is held out."""
    step = run.state.step
    if str(step) in run.state.held_out:
        return
    losses = evaluate.held_out(run.trainee, run.feed.held_out(run.state.micro_batch))
    if losses is None:
        return
    found, program = losses.interval(), run.plan.program
    if not math.isfinite(found.loss):
        log.warn(f"held-out loss is not finite after step {step}: it is not recorded")
        return
    values = {"held_out/loss": found.loss, "held_out/low": found.low, "held_out/high": found.high}
    if isinstance(program.data, plan.Texts):
        values["held_out/perplexity"] = found.perplexity
    run.metrics.scalars(step, values)
    perplexity = f", perplexity {found.perplexity:.2f}" if isinstance(program.data, plan.Texts) else ""
    log.info(f"Held-out loss {found.loss:.4f}{perplexity} after step {step}")
    run.state = attrs.evolve(run.state, held_out={**run.state.held_out, str(step): found})
    if step and choice.is_followed(program.evaluation) and choice.is_candidate(program, step):
        standing = choice.follow(run.state.standing, choice.Candidate(step=step, losses=losses))
        run.state = attrs.evolve(run.state, standing=standing)


def is_over(run: Run) -> bool:
    """Whether the run ends before its last step, for the loss of what is held out no longer falls."""
    return choice.is_over(run.plan.program.evaluation, run.state.standing)


def save(run: Run) -> Path:
    """Write a checkpoint of the present state, and drop those that are too old and will not be exported; all processes
    wait until it is whole."""
    began = time.monotonic()
    root = run.folder / "checkpoints"
    step = run.state.step
    standing, is_last = run.state.standing, step == run.plan.program.train.steps or is_over(run)
    spared = (standing.steps if standing else frozenset()) | (set() if is_last else {*run.state.needed})
    if processes.first():
        checkpoint.save(root, run.trainee, run.state, run.plan.plan_hash, run.lora_files(step))
        checkpoint.prune(root, run.plan.outputs.keep_checkpoints, spared)
    processes.wait()
    path = checkpoint.folder(root, step)
    run.metrics.scalars(step, {"checkpoint_seconds": time.monotonic() - began})
    log.info(f"Saved {path.parent.parent.name}/checkpoints/{path.name}")
    return path


def interrupted(run: Run, path: Path) -> None:
    """Leave, saying how to go on from the checkpoint just saved."""
    what = f"stopped after step {run.state.step} of {run.plan.program.train.steps}; everything is in {path}"
    raise Interrupted(Problem("", what, "run the same command again to go on"))


def is_due(of: plan.Plan, step: int) -> bool:
    """Whether a checkpoint follows this step."""
    return due(step, of.outputs.save_steps) or choice.is_candidate(of.program, step)


def due(step: int, every: int) -> bool:
    """Whether something that happens each `every` steps (0: never) happens after this one."""
    return every > 0 and step % every == 0


def note(run: Run, rate: float) -> str:
    """The bar's words: loss over the last steps, speed, memory now / planned."""
    loss = sum(run.state.losses) / max(1, len(run.state.losses))
    used, planned = log.size(memory_now()), log.size(plan.planned_memory(run.plan))
    return f"loss {loss:.4f} {speed(rate)} mem {used} / {planned}"


def speed(rate: float) -> str:
    """Steps a second, or where there is less than one, seconds a step."""
    return f"{rate:.2f} it/s" if rate >= 1 or not rate else f"{1 / rate:.2f} s/it"


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
