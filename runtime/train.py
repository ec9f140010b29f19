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

from runtime import checkpoint, evaluate, log, plan, processes
from runtime.errors import DivergedError, Interrupted, Lost, MachineError, Problem
from runtime.families.protocol import Batch
from runtime.media import Feed
from runtime.optimizers import factor
from runtime.step import Trainee, gradients, update

LOSS_WINDOW = 100
"""Steps that the shown loss is averaged over."""


@attrs.define(kw_only=True)
class Run:
    """A run in progress. `at_checkpoint` is called with the step after each periodic checkpoint's state is known."""

    plan: plan.Plan
    trainee: Trainee
    feed: Feed
    folder: Path
    metrics: log.Metrics | log.Silence
    state: checkpoint.State
    lora_files: Callable[[int], dict[str, bytes]]
    show: Callable[[int], None]
    fault: Callable[[int], None] = lambda step: None


def train(run: Run) -> checkpoint.State:
    """Train to the plan's last step. Raises Interrupted (all saved), DivergedError or MachineError."""
    program = run.plan.program.train
    measure(run)
    with saying_what_is_safe(run), log.Bar("step", program.steps, run.state.step) as bar, stoppable() as stop:
        while run.state.step < program.steps:
            began = time.monotonic()
            loss, norm = one_step(run, run.feed.step(run.state.step))
            spent = time.monotonic() - began
            run.state = attrs.evolve(
                run.state,
                step=run.state.step + 1,
                seconds=run.state.seconds + spent,
                losses=(*run.state.losses[1 - LOSS_WINDOW :], loss),
            )
            step = run.state.step
            rate = program.learning_rate * factor(program.schedule, step - 1, program.steps)
            values = {"loss": loss, "grad_norm": norm, "lr": rate, "seconds": spent, "memory": memory_now()}
            run.metrics.scalars(step, values)
            bar.step(note=note(run, bar.rate()))
            if processes.any_of(stop()):
                interrupted(run)
            if due(step, run.plan.outputs.save_steps) or step == program.steps:
                measure(run)
                save(run)  # the last step too: whatever happens after it, nothing is lost
            if due(step, run.plan.outputs.samples.every) and step < program.steps and processes.first():
                run.show(step)
    return run.state


def one_step(run: Run, samples: Sequence[Any]) -> tuple[float, float]:
    """One optimizer step; where memory runs out, again with the plan's next smaller micro-batch."""
    program = run.plan.program.train
    total = run.feed.weigh(samples)
    while True:
        try:
            found = gradients(run.trainee, batches(run, samples), total)
            loss, norm = (value.item() for value in found)
            break
        except torch.OutOfMemoryError as error:
            step_down(run, error)
    check_finite(run, samples, loss, norm)
    update(run.trainee, factor(program.schedule, run.state.step, program.steps))
    return loss, norm


def batches(run: Run, samples: Sequence[Any]) -> Iterator[tuple[Batch, list[int]]]:
    """This process's share of a step's micro-batches, each with its samples' keys."""
    run.fault(run.state.step)
    for group in processes.share(run.feed.cut(samples, run.state.micro_batch)):
        yield run.feed.batch(group), [sample.key for sample in group]


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
    if run.trainee.stream is not None:
        run.trainee.stream.rest()
    run.trainee.optimizer.zero_grad(set_to_none=True)
    for weight in run.trainee.weights.values():
        weight.grad = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warn(steps_down)


def check_finite(run: Run, samples: Sequence[Any], loss: float, norm: float) -> None:
    """Stop before a step that would spoil the weights, or that moves nothing at all."""
    step = run.state.step
    if math.isfinite(loss) and math.isfinite(norm) and (norm > 0 or step > 0):
        return
    what = "loss is not finite" if not math.isfinite(loss) else "the gradient is not finite"
    if norm == 0:
        what = "the gradient is zero: nothing learns"
    program = run.plan.program.train
    rate = program.learning_rate * factor(program.schedule, step, program.steps)
    names = " ".join(dict.fromkeys(run.feed.names(samples)))
    hint = "lower train.learning_rate, or look at these samples"
    raise DivergedError(
        Problem(f"step {step + 1}", f"{what} (lr {rate:.1e}, samples {names}); {kept(run)}", hint)
    )


@contextmanager
def saying_what_is_safe(run: Run) -> Iterator[None]:
    """Where another process of the run is lost, name the step and the checkpoint that the run goes on from."""
    try:
        yield
    except Lost as error:
        safe = f"at step {run.state.step + 1}; {kept(run)}"
        raise Lost(attrs.evolve(one, what=f"{one.what} {safe}") for one in error.problems) from error


def kept(run: Run) -> str:
    """What of the run is safe, in words."""
    last = checkpoint.whole(run.folder / "checkpoints")
    return f"last good checkpoint {last[-1].name}" if last else "no checkpoint was due yet"


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
    """Write a checkpoint of the present state, and drop those that are too old; all wait until it is whole."""
    root = run.folder / "checkpoints"
    step = run.state.step
    if processes.first():
        checkpoint.save(root, run.trainee, run.state, run.plan.plan_hash, run.lora_files(step))
        checkpoint.prune(root, run.plan.outputs.keep_checkpoints)
    processes.wait()
    path = checkpoint.folder(root, step)
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
    loss = sum(run.state.losses) / len(run.state.losses)
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
