"""A spec's own train step, as the runtime makes it, in parts that can be timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch

from lorac.compile import compile_experiment
from lorac.load import load, the_only
from runtime import media, plan
from runtime import step as train_step
from runtime.exactness import deterministic
from runtime.families import family
from runtime.preflight import Where
from runtime.run import adapt, put_away
from runtime.run import load as load_base

Batches = list[tuple[dict[str, torch.Tensor], list[int]]]


@attrs.frozen(kw_only=True)
class Parts:
    """`read` gives a step's micro-batches with their keys; `learn` makes gradients of them, `move` the update."""

    name: str
    of: plan.Plan
    trainee: train_step.Trainee
    read: Callable[[int], tuple[Batches, int]]
    learn: Callable[[Batches, int], None]
    move: Callable[[], None]

    def whole(self, number: int) -> None:
        self.learn(*self.read(number))
        self.move()


def parts(spec: Path, threads: int, work: Path, **fit: Any) -> Parts:
    """Planned for this CPU, with these fields of `fit` besides, its data encoded in `work`; nothing is trained yet."""
    loaded = the_only(load(spec))
    pinned = attrs.evolve(loaded.experiment.fit, threads=threads, **fit)
    experiment = attrs.evolve(loaded.experiment, fit=pinned)
    os.environ["LORAC_CACHE"] = str(work / "cache")
    of = compile_experiment(experiment, Path.cwd(), spec.parent, card="cpu")
    program, places = of.program, of.outputs.places
    where = Where(base=Path(places.base), data=Path(places.data), output=work, log=work, cache=work / "cache")
    deterministic(program.compute)
    kind, device = family(program.base.family), torch.device("cpu")
    modules, tokenizers = load_base(kind, program, where, device)
    feed: Any = media.medium(program.data).prepare(kind, modules, tokenizers, program, where, device)
    put_away(modules, of)
    trainee = adapt(kind, modules, program)

    def read(number: int) -> tuple[Batches, int]:
        samples = feed.step(number)
        groups = feed.cut(samples, program.train.micro_batch)
        return [(feed.batch(one), [sample.key for sample in one]) for one in groups], feed.weigh(samples)

    def learn(batches: Batches, total: int) -> None:
        for value in train_step.gradients(trainee, batches, total):
            value.item()

    return Parts(
        name=f"{of.outputs.name}, {program.compute.dtype}, micro-batch {program.train.micro_batch} "
        f"× {program.train.accumulation}",
        of=of,
        trainee=trainee,
        read=read,
        learn=learn,
        move=lambda: train_step.update(trainee, 1.0),
    )
