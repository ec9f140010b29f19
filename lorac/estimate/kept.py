"""Traces of our own phases, kept on disk by content, so that cards of one compute capability share them.

A kept trace depends on the program's part that moves memory, the compute capability, the package versions and our own
code; not on a card's memory or speed. Reading one takes some hundredths of a second, making one some seconds.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import attrs

from lorac.estimate import phases
from lorac.estimate.ahead import made_ahead
from lorac.estimate.record import Block, Call, Trace
from lorac.places import code_digest
from runtime import plan
from runtime.safeio import atomic, strict_json

LEVEL = 3
"""gzip's: a trace of 2 MB becomes 90 kB in some milliseconds."""


@attrs.frozen
class Wanted:
    """A trace by its content's digest, and how it is made."""

    key: str
    make: Callable[[], Trace]


class Traces:
    """Traces of programs, each made once. `folder` is where they are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Trace] = {}

    def training(self, program: plan.Program, capability: tuple[int, int]) -> Trace:
        """One step at its fullest (`phases.training`)."""
        return self._find(_training(program, capability))

    def preparing(self, program: plan.Program, capability: tuple[int, int]) -> Trace:
        """Loading and encoding (`phases.preparing`)."""
        return self._find(_preparing(program, capability))

    def evaluating(self, program: plan.Program, capability: tuple[int, int]) -> Trace:
        """The loss of what is held out (`phases.evaluating`)."""
        return self._find(_evaluating(program, capability))

    def pausing(self, program: plan.Program, outputs: plan.Outputs, capability: tuple[int, int]) -> Trace:
        """Saving and sampling (`phases.pausing`)."""
        return self._find(_pausing(program, outputs, capability))

    def training_first(
        self, program: plan.Program, outputs: plan.Outputs | None, capability: tuple[int, int]
    ) -> Trace:
        """`training`, and meanwhile, on another core, what the phases around it will be asked for."""
        step, others = _training(program, capability), [_preparing(program, capability)]
        if program.data.held_out:
            others.append(_evaluating(program, capability))
        if outputs is not None:
            others.append(_pausing(program, outputs, capability))
        missing = [one for one in others if not self._has(one)]
        if self._has(step) or not missing:
            return self._find(step)
        with made_ahead(lambda: [self._find(one) for one in missing]):
            return self._find(step)

    def _has(self, wanted: Wanted) -> bool:
        return wanted.key in self._known or self._path(wanted).exists()

    def _path(self, wanted: Wanted) -> Path:
        return self.folder / f"{wanted.key}.json.gz"

    def _find(self, wanted: Wanted) -> Trace:
        key = wanted.key
        if key not in self._known:
            path = self._path(wanted)
            found = _read(path)
            if found is None:
                found = wanted.make()
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_bytes(path, gzip.compress(_written(found).encode(), LEVEL, mtime=0))
            self._known[key] = found
        return self._known[key]


def _training(program: plan.Program, capability: tuple[int, int]) -> Wanted:
    train = program.train
    question = {
        **_question("training", program, capability),
        "bucket": plan.largest(program.data),
        "adapter": plan.unstructure(program.adapter),
        "micro_batch": train.micro_batch,
        "accumulates": train.accumulation > 1,
        "optimizer": plan.unstructure(train.optimizer),
        "lora_plus_ratio": train.lora_plus_ratio,
        "objective": plan.unstructure(train.objective),
        "compute": plan.unstructure(program.compute),
    }
    return Wanted(strict_json.sha256(question), lambda: phases.training(program, capability))


def _preparing(program: plan.Program, capability: tuple[int, int]) -> Wanted:
    question = {
        **_question("preparing", program, capability),
        "layout": program.base.layout,
        "bucket": plan.largest(program.data),
        "trained": sorted(plan.trained(program.adapter)),
        "compute": _without_blocks(program.compute),
    }
    return Wanted(strict_json.sha256(question), lambda: phases.preparing(program, capability))


def _evaluating(program: plan.Program, capability: tuple[int, int]) -> Wanted:
    question = {
        **_question("evaluating", program, capability),
        "bucket": plan.largest(program.data),
        "adapter": plan.unstructure(program.adapter),
        "micro_batch": program.train.micro_batch,
        "optimizer": plan.unstructure(program.train.optimizer),
        "objective": plan.unstructure(program.train.objective),
        "compute": _without_blocks(program.compute),
    }
    return Wanted(strict_json.sha256(question), lambda: phases.evaluating(program, capability))


def _pausing(program: plan.Program, outputs: plan.Outputs, capability: tuple[int, int]) -> Wanted:
    samples = outputs.samples
    question = {
        **_question("pausing", program, capability),
        "adapter": plan.unstructure(program.adapter),
        "optimizer": plan.unstructure(program.train.optimizer),
        "objective": plan.unstructure(program.train.objective),
        "compute": _without_blocks(program.compute),
        "dtype": outputs.dtype,
        "draws": _drawn(samples) if samples.prompts else [],
    }
    return Wanted(strict_json.sha256(question), lambda: phases.pausing(program, outputs, capability))


def _question(phase: str, program: plan.Program, capability: tuple[int, int]) -> dict[str, Any]:
    """What every trace depends on."""
    return {
        "phase": phase,
        "code": code_digest(),
        "versions": program.versions,
        "capability": capability,
        "split_among": program.train.processes if program.compute.sharded else 1,
        "base": [program.base.family, program.base.architecture, program.base.prediction_type],
    }


def _drawn(samples: plan.Samples | plan.Answers) -> list[Any]:
    """What of the samples moves memory."""
    if isinstance(samples, plan.Answers):
        return [samples.max_tokens]
    return [samples.width, samples.height, samples.guidance > 1, samples.tiled]


def _without_blocks(compute: plan.Compute) -> Any:
    """How a step without a backward is computed: nothing is recomputed in it."""
    return plan.unstructure(attrs.evolve(compute, checkpointed=()))


def _written(trace: Trace) -> str:
    """A trace as JSON: of each block and call the values in their order, as names take longer than all else."""
    block, call = (attrgetter(*attrs.fields_dict(kind)) for kind in (Block, Call))
    parts = (
        list(map(block, trace.blocks)),
        trace.events,
        trace.marks,
        list(map(call, trace.calls)),
        trace.steps,
    )
    return json.dumps(parts)


def _read(path: Path) -> Trace | None:
    """A kept trace; None if there is none, or it is damaged (it is made anew)."""
    try:
        blocks, events, marks, calls, steps = json.loads(gzip.decompress(path.read_bytes()))
        return Trace(
            tuple(Block(*one) for one in blocks),
            tuple(events),
            tuple((at, name) for at, name in marks),
            tuple(Call(*one) for one in calls),
            steps,
        )
    except Exception:  # whatever is wrong with a cache entry, the cure is the same
        return None
