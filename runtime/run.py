"""A plan, carried out: check the inputs, cache what never changes, train, export. Read top to bottom."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import torch
from PIL.Image import Image

from runtime import (
    average,
    checkpoint,
    choice,
    compiled,
    divergence,
    encoders,
    evaluate,
    heap,
    log,
    media,
    plan,
    processes,
)
from runtime import step as train_step
from runtime.adapters import adapted, method, whole, words
from runtime.dtypes import DTYPES
from runtime.errors import MachineError, OtherFormat, PlanError, Problem
from runtime.exactness import deterministic, refusals
from runtime.export import manifest as manifests
from runtime.export import uses, write
from runtime.export.manifest import Choice, Facts
from runtime.export.weights import Weights
from runtime.families import family
from runtime.families.parts import vocabulary
from runtime.families.protocol import Family, Modules
from runtime.human import clock
from runtime.preflight import Where
from runtime.report import page as report
from runtime.safeio import paths
from runtime.train import Run, peak_memory, train


@attrs.frozen(kw_only=True)
class Options:
    """What the command line may say beside the plan."""

    where: Where
    fault: Callable[[int], None] = lambda step: None


def run(of: plan.Plan, options: Options) -> Path:
    """Carry out a plan that `preflight.check` has let through. The run's folder. Raises LoracError, Interrupted too.

    Where the plan has several processes, this is one of them.
    """
    where, program, outputs = options.where, of.program, of.outputs
    device = torch.device(program.compute.device)
    deterministic(program.compute)
    with processes.joined(program.compute.device), held(of, where.output):
        log.info(f"Using device: {device_name(program.compute)}{in_all(program.train)}")
        if program.compute.device == "cpu" and heap.keep_to(of.estimate.host_bytes * program.train.processes):
            log.info("Main memory is short: what is freed goes back at once")
        done = write.finished(where.output, of)
        if done is not None:
            log.info(f"Already complete: {done}")
            if processes.first():
                tell_uses(manifests.read(where.output / f"{outputs.name}{manifests.SUFFIX}"), where.output)
            return where.output
        architecture = family(program.base.family)
        modules, tokenizers = load(architecture, program, where, device)
        log.info(f"Loaded base model from {outputs.places.base} ({architecture.TITLE})")
        medium = media.medium(program.data)
        with processes.one_goes_ahead():
            feed = medium.prepare(architecture, modules, tokenizers, program, where, device)
        put_away(modules, of)
        trainee = adapt(architecture, modules, program)
        state = begin(of, trainee, where.output / "checkpoints")
        metrics = log.Metrics(where.log, state.step) if processes.first() else log.Silence()
        ready = media.Ready(
            plan=of, trainee=trainee, modules=modules, tokenizers=tokenizers, where=where, metrics=metrics
        )
        job = Run(
            plan=of,
            trainee=trainee,
            feed=feed,
            folder=where.output,
            metrics=metrics,
            state=state,
            lora_files=lambda step: write.checkpoint_files(of, factors(trainee), step),
            show=lambda step: show(ready, medium, step),
            fault=options.fault,
        )
        log.info(f"Training started... total steps: {program.train.steps}" + resumed(state))
        if program.compute.compiled:
            log.info(
                f"Compiling {len(architecture.blocks(modules))} blocks: the first step takes longer{by(of)}"
            )
        try:
            with refusals(), compiled.compiling(of, where.output):
                job.state = train(job)
            exported = take_chosen(job)
            previews: Sequence[Image] = ()
            if draws(program):
                with average.shown(trainee):
                    previews = medium.finish(ready)
            if processes.first():
                finish(job, exported, previews, where)
        finally:
            metrics.close()
    return where.output


def load(
    of: Family, program: plan.Program, where: Where, device: torch.device
) -> tuple[Modules, dict[str, Any]]:
    """Every component, with the tokenizers that know the plan's words: what is trained in the plan's dtype or fewer
    bits, what only encodes and decodes in its own.

    It is quantised on the CPU, whatever the device, so that every machine gets the same bytes.
    A component whose blocks are offloaded stays in the computer's memory until the adapter is on it.
    """
    trained = {of.BACKBONE, *plan.trained(program.adapter)}
    modules = {}
    for name in of.COMPONENTS:
        dtype = program.compute.dtype if name in trained else encoders.dtype(of, name)
        modules[name] = module = of.load(where.component(name), program.base, name, DTYPES[dtype])
        if name in trained:
            train_step.pack(of, {name: module}, program.compute)
        if encoders.streams(of, name, program.compute):
            encoders.stream(of, name, module, device)
        elif not plan.streams(program.compute, name):
            module.to(device)
    tokenizers = of.load_tokenizers(vocabulary(of, where.base, where.parts), program.base)
    return modules, words.introduce(modules, tokenizers, program.adapter)


def adapt(of: Family, modules: Modules, program: plan.Program) -> train_step.Trainee:
    """Put the adapter on with its first values, and lay the step on the device."""
    counts = train_step.attach(modules, program)
    if counts != program.adapter.modules:
        hint = "plan again with this version: lorac plan SPEC"
        what = f"adapts {counts} modules here, the plan says {program.adapter.modules}"
        raise PlanError(Problem("adapter.targets", what, hint))
    for component in plan.trained(program.adapter):
        adapted.initialise(modules[component], component, program.train.seed)
    log.info(f"Injected {told(program.adapter)} in {sum(counts.values())} modules")
    return train_step.trainee(of, modules, program)


def told(adapter: plan.Adapter) -> str:
    """ "LoRA adapters with rank=16"."""
    rank = f" with rank={adapter.rank}" if adapter.rank else ""
    return f"{method(adapter.method).TITLE} adapters{rank}"


def put_away(modules: Modules, of: plan.Plan) -> None:
    """Encoders that wait while training: to the computer's memory, or out of it where nothing is drawn."""
    for name in of.program.compute.offloaded:
        if name in modules and of.outputs.samples.prompts:
            encoders.move(family(of.program.base.family), name, modules[name], of.program.compute, "cpu")
        elif name in modules:
            del modules[name]


def begin(of: plan.Plan, trainee: train_step.Trainee, checkpoints: Path) -> checkpoint.State:
    """The first state, or that of the newest undamaged checkpoint of this plan, the same in all processes."""
    found = checkpoint.newest(checkpoints, of.plan_hash)
    if not processes.is_alike(found[1].step if found else 0):
        hint = "put it on a file system that all machines share: --output DIR"
        raise MachineError(Problem(str(checkpoints), "the processes find different checkpoints there", hint))
    if found is None:
        micro = of.program.train.micro_batch
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return checkpoint.State(step=0, micro_batch=micro, seconds=0.0, losses=(), notes=(), started_at=now)
    path, state = found
    checkpoint.restore(path, trainee)
    log.info(f"Resuming from {path.name}")
    return state


def by(of: plan.Plan) -> str:
    """By how much, where it is known."""
    return f" by about {clock(of.estimate.compile_seconds)}" if of.estimate.compile_seconds else ""


def resumed(state: checkpoint.State) -> str:
    return f" (going on after {state.step})" if state.step else ""


def show(ready: media.Ready, medium: media.Medium, step: int) -> None:
    """Samples after `step` steps, of the weights that would be exported."""
    if not draws(ready.plan.program):
        return
    with average.shown(ready.trainee):
        medium.show(ready, step)


def draws(program: plan.Program) -> bool:
    """Whether this process draws samples: the first, and where blocks are split all with it, though it alone writes."""
    return processes.first() or bool(program.compute.sharded)


def factors(trainee: train_step.Trainee) -> Weights:
    """What is exported: component -> {module path: {part: its value}} as float32 on the CPU; of what is trained whole
    the parts are weight, and bias where it has one; of a token embedding each new word's rows."""
    with average.shown(trainee):
        return _factors(trainee)


def _factors(trainee: train_step.Trainee) -> Weights:
    found: dict[str, dict[str, adapted.Parts]] = {}
    for component in plan.trained(trainee.program.adapter):
        found[component] = {
            path: layer.finished(
                {
                    part: trainee.masters[f"{component}.{path}.{part}"].detach().float().cpu()
                    for part in layer.parts
                }
            )
            for path, layer in adapted.layers(trainee.modules[component]).items()
        }
    name_of = {id(weight): name for name, weight in trainee.weights.items()}
    for name, weight in whole.parameters(trainee.modules, trainee.program.adapter):
        component, _, path = name.partition(".")
        module, _, part = path.rpartition(".")
        master = trainee.masters[name_of[id(weight)]].detach().float().cpu()
        found[component][module] = {**found[component].get(module, {}), part: master}
    return found


def take_chosen(job: Run) -> checkpoint.State:
    """Put the chosen checkpoint's weights back where it is another than the last. The state that is exported.

    Raises PlanError or InputError where it is damaged: run again, the training goes back to before it was.
    """
    standing = job.state.standing
    if standing is None or job.plan.program.evaluation.choose == "last":
        return job.state
    path = checkpoint.folder(job.folder / "checkpoints", standing.chosen.step)
    state = checkpoint.verified(path, job.plan.plan_hash)
    if state.step != job.state.step:
        checkpoint.restore(path, job.trainee)
    return state


def chosen(job: Run, exported: checkpoint.State) -> Choice | None:
    """Why this checkpoint was exported, for the manifest; None where nothing was decided by what is held out."""
    standing, evaluation = job.state.standing, job.plan.program.evaluation
    if standing is None:
        return None
    found = job.state.held_out[str(exported.step)]
    is_best = evaluation.choose == "best"
    gap, error = (
        evaluate.difference(standing.chosen.losses, standing.lowest.losses) if is_best else (0.0, 0.0)
    )
    why = f"no lower held-out loss in {standing.since} checkpoints after step {standing.lowest.step}"
    made = Choice(
        rule=choice.BEST if is_best else choice.LAST,
        step=exported.step,
        loss=found.loss,
        low=found.low,
        high=found.high,
        lowest_step=standing.lowest.step,
        gap=gap,
        error=error,
        trained=job.state.step,
        stopped=why if job.state.step < job.plan.program.train.steps else "",
    )
    if made.stopped:
        log.info(f"Stopped after step {made.trained}: {made.stopped}")
    log.info(f"Exporting step {made.step} of {made.trained}, held-out loss {made.loss:.4f}: {made.rule}")
    return made


def finish(job: Run, exported: checkpoint.State, previews: Sequence[Image], where: Where) -> None:
    """Write every output, and leave nothing half done."""
    of = job.plan
    facts = Facts(
        steps=exported.step,
        seconds=job.state.seconds,
        loss=sum(exported.losses) / len(exported.losses),
        micro_batch=job.state.micro_batch,
        device=device_name(of.program.compute),
        peak_bytes=peak_memory(),
        metrics=job.state.metrics,
        notes=(*job.state.notes, *divergence.told(job.state)),
        choice=chosen(job, exported),
        started_at=job.state.started_at,
    )
    manifest = write.export(where.output, factors(job.trainee), of, facts, previews)
    for note in manifest.run.notes:
        if note not in facts.notes:  # those were told when they came up
            log.warn(note)
    for file in manifest.files:
        log.info(f"Wrote {paths.display(where.output)}/{file.name} ({log.size(file.size)})")
    tell_of(where.output)
    tell_uses(manifest, where.output)


def tell_uses(manifest: manifests.Manifest, folder: Path) -> None:
    """What to do with the LoRA."""
    for line in uses.told(manifest, folder):
        log.info(line)


def tell_of(folder: Path) -> None:
    """The run's page. It is never worth a run: what goes wrong with it is told, and nothing more."""
    try:
        report.write(folder)
    except Exception as error:
        log.warn(f"no report: {type(error).__name__}: {error}")
        return
    log.info(f"Report: {paths.display(folder)}/{report.FILE}")


def make_room(of: plan.Plan, folder: Path) -> None:
    """Never write over another plan's run: its folder is moved aside whole, under its plan's hash."""
    receipt = folder / "plan.json"
    if receipt.exists():
        before = earlier(receipt)
        if before != of.plan_hash:
            aside = folder.with_name(f"{folder.name}-{before[:8]}")
            if aside.exists():
                shutil.rmtree(aside) if not any(aside.iterdir()) else None
                number = 2
                while aside.exists():
                    aside = folder.with_name(f"{folder.name}-{before[:8]}-{number}")
                    number += 1
            with locked(folder):
                folder.rename(aside)
            log.info(f"Moved the earlier run of another plan aside to {aside.name}")
    folder.mkdir(parents=True, exist_ok=True)
    plan.write(of, receipt)


def earlier(receipt: Path) -> str:
    """The hash of the plan that a run's folder is of; "earlier" where it is of another lorac's. Raises PlanError."""
    try:
        return plan.read(receipt).plan_hash
    except OtherFormat:
        return "earlier"


@contextmanager
def held(of: plan.Plan, folder: Path) -> Iterator[None]:
    """The run's folder, made and locked by the first process; the others wait until it is."""
    if processes.first():
        make_room(of, folder)
    with locked(folder) if processes.first() else nullcontext():
        processes.wait()
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a crash leaves none behind. Raises MachineError if another run holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        hint = "wait for it, or give this one another name"
        raise MachineError(Problem(str(folder), "another run is working in this folder", hint)) from None
    try:
        yield
    finally:
        os.close(descriptor)


def in_all(train: plan.Train) -> str:
    """ " × 2 processes"."""
    return f" × {train.processes} processes" if train.processes > 1 else ""


def device_name(compute: plan.Compute) -> str:
    """`cuda (NVIDIA GeForce RTX 3060)` or `cpu (2 threads)`, and the dtype."""
    if compute.device == "cuda" and torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()}), {compute.dtype}"
    threads = torch.get_num_threads()
    return f"{compute.device} ({platform.machine()}, {threads} threads), {compute.dtype}"
