"""A finished run, loaded: its base with the adapter on it, any of its checkpoints put back, at any weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from PIL.Image import Image

from runtime import average, checkpoint, encoders, evaluate, media, plan, preflight
from runtime import run as running
from runtime.chat import computed
from runtime.errors import InputError, PlanError, Problem
from runtime.evaluate import Losses
from runtime.export import manifest as manifests
from runtime.export.manifest import SUFFIX, Manifest
from runtime.families import family
from runtime.families.protocol import Modules
from runtime.media import Feed
from runtime.preflight import Where
from runtime.safeio import paths
from runtime.sampling import Studio
from runtime.step import Trainee


@attrs.frozen(kw_only=True)
class Subject:
    """What is evaluated. `of` is the run's plan, `trainee` computes as this machine can."""

    of: plan.Plan
    manifest: Manifest
    where: Where
    trainee: Trainee
    modules: Modules
    tokenizers: dict[str, Any]
    feed: Feed

    @property
    def program(self) -> plan.Program:
        return self.trainee.program


def read(folder: Path) -> tuple[plan.Plan, Manifest]:
    """The plan and the manifest of a finished run. Raises InputError or PlanError."""
    where = paths.display(folder)
    if not (folder / "plan.json").is_file():
        raise InputError(
            Problem(where, "there is no run here", "give a run's name in output/, or its folder")
        )
    of = plan.read(folder / "plan.json")
    path = folder / f"{of.outputs.name}{SUFFIX}"
    if not path.is_file():
        raise InputError(Problem(where, "holds no finished LoRA", f"finish it: lorac run {where}"))
    return of, manifests.read(path)


def load(of: plan.Plan, manifest: Manifest, where: Where) -> Subject:
    """Load a run's base, put its adapter on, and encode its data. Raises LoracError."""
    problems = preflight.base_problems(of.program.base, where.base, where.parts)
    problems += preflight.data_problems(of.program.data, where.data)
    if problems:
        raise PlanError(problems)
    program = attrs.evolve(of.program, compute=computed(of.program.compute, torch.cuda.is_available()))
    running.deterministic(program.compute)
    architecture, device = family(program.base.family), torch.device(program.compute.device)
    modules, tokenizers = running.load(architecture, program, where, device)
    feed = media.medium(program.data).prepare(architecture, modules, tokenizers, program, where, device)
    for name in program.compute.offloaded:
        if name in modules:
            encoders.move(architecture, name, modules[name], program.compute, "cpu")
    trainee = running.adapt(architecture, modules, program)
    for module in modules.values():
        module.eval()
    return Subject(
        of=of,
        manifest=manifest,
        where=where,
        trainee=trainee,
        modules=modules,
        tokenizers=tokenizers,
        feed=feed,
    )


def steps(subject: Subject, only_last: bool) -> list[int]:
    """The checkpoints that are there, or the newest and the exported one. Raises InputError where that one is gone."""
    root = subject.where.output / "checkpoints"
    there = [int(path.name.removeprefix("step-")) for path in checkpoint.whole(root)]
    exported = subject.manifest.run.steps
    if exported not in there:
        what = f"has no checkpoint after step {exported}, which was exported"
        raise InputError(Problem(paths.display(root), what, "run the plan again: it makes what is missing"))
    return sorted({there[-1], exported}) if only_last else there


def restore(subject: Subject, step: int) -> None:
    """Put a checkpoint's weights back. Raises InputError or PlanError for a damaged one."""
    path = checkpoint.folder(subject.where.output / "checkpoints", step)
    checkpoint.verified(path, subject.of.plan_hash)
    checkpoint.restore(path, subject.trainee)


def draw(subject: Subject, samples: plan.Samples, weight: float) -> list[Image]:
    """One picture for each prompt, prompt i with seed + i, by what would be exported, at a weight."""
    program = subject.program
    studio = Studio(
        family=family(program.base.family),
        modules=subject.modules,
        tokenizers=subject.tokenizers,
        program=program,
    )
    with average.shown(subject.trainee):
        return studio.draw(samples, weight)


@contextmanager
def weighed(subject: Subject, weight: float) -> Iterator[None]:
    """Have the adapter act at a weight."""
    subject.trainee.weigh(weight)
    try:
        yield
    finally:
        subject.trainee.weigh(1.0)


def held_out(subject: Subject, weight: float) -> Losses | None:
    """The loss of what is held out at a weight, as it was measured in training; None where nothing is."""
    with weighed(subject, weight):
        return evaluate.held_out(subject.trainee, subject.feed.held_out(subject.program.train.micro_batch))
