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
from lorac.estimate.record import Block, Call, Trace
from lorac.places import code_digest
from runtime import plan
from runtime.safeio import atomic, strict_json

LEVEL = 3
"""gzip's: a trace of 2 MB becomes 90 kB in some milliseconds."""


class Traces:
    """Traces of programs, each made once. `folder` is where they are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Trace] = {}

    def training(self, program: plan.Program, capability: tuple[int, int]) -> Trace:
        """One step at its fullest (`phases.training`)."""
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
        return self._find(question, lambda: phases.training(program, capability))

    def preparing(self, program: plan.Program, capability: tuple[int, int]) -> Trace:
        """Loading and encoding (`phases.preparing`)."""
        question = {
            **_question("preparing", program, capability),
            "layout": program.base.layout,
            "bucket": plan.largest(program.data),
            "trained": sorted(plan.trained(program.adapter)),
            "compute": _without_blocks(program.compute),
        }
        return self._find(question, lambda: phases.preparing(program, capability))

    def evaluating(self, program: plan.Program, capability: tuple[int, int]) -> Trace:
        """The loss of what is held out (`phases.evaluating`)."""
        question = {
            **_question("evaluating", program, capability),
            "bucket": plan.largest(program.data),
            "adapter": plan.unstructure(program.adapter),
            "micro_batch": program.train.micro_batch,
            "optimizer": plan.unstructure(program.train.optimizer),
            "objective": plan.unstructure(program.train.objective),
            "compute": _without_blocks(program.compute),
        }
        return self._find(question, lambda: phases.evaluating(program, capability))

    def pausing(self, program: plan.Program, outputs: plan.Outputs, capability: tuple[int, int]) -> Trace:
        """Saving and sampling (`phases.pausing`)."""
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
        return self._find(question, lambda: phases.pausing(program, outputs, capability))

    def _find(self, question: dict[str, Any], make: Callable[[], Trace]) -> Trace:
        key = strict_json.sha256(question)
        if key not in self._known:
            path = self.folder / f"{key}.json.gz"
            found = _read(path)
            if found is None:
                found = make()
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_bytes(path, gzip.compress(_written(found).encode(), LEVEL, mtime=0))
            self._known[key] = found
        return self._known[key]


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
