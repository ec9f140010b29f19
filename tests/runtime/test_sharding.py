"""Blocks split among processes: what each one keeps, and that the plan knows it. The processes are fake, as in a
trace; the tensors are real. What real ones learn is in test_processes.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lorac import sharding as model
from lorac.estimate import phases
from lorac.estimate.processes import first_of
from lorac.estimate.record import Trace
from lorac.estimate.trace import measure
from runtime import plan, sharding
from runtime.families import family, flux1, inspect
from runtime.safeio import digest
from tests.lorac.plans import PROGRAM

CPU = torch.device("cpu")


@pytest.fixture
def three_processes() -> Iterator[None]:
    with first_of(3):
        yield


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> plan.Program:
    """FLUX.1 whose blocks are split among three processes, of which rows of 64 and 128 are not dealt evenly."""
    base = inspect.inspect(flux1.tiny(tmp_path_factory.mktemp("tiny") / "flux1"), digest.sha256_file).base
    items = tuple(attrs.evolve(item, bucket=(64, 64)) for item in PROGRAM.data.items)
    targets = flux1.targets(base.architecture, next(iter(flux1.PRESETS)), False)
    of = attrs.evolve(
        PROGRAM,
        base=base,
        data=attrs.evolve(PROGRAM.data, items=items),
        adapter=attrs.evolve(PROGRAM.adapter, rank=2, targets=targets),
        train=attrs.evolve(PROGRAM.train, processes=3, micro_batch=2, accumulation=2, effective_batch=12),
    )
    blocks = tuple(family("flux1").blocks(phases.bare(of, [flux1.BACKBONE], "fp32")))
    waits = tuple(name for name in flux1.COMPONENTS if name != flux1.BACKBONE)
    compute = plan.Compute(
        device="cpu", threads=1, dtype="fp32", checkpointed=(), offloaded=waits, sharded=blocks
    )
    return attrs.evolve(of, compute=compute)


@pytest.mark.parametrize("recomputed", [False, True])
def test_the_traced_peak_is_what_a_process_takes(
    program: plan.Program, monkeypatch: pytest.MonkeyPatch, recomputed: bool
) -> None:
    again = program.compute.sharded if recomputed else ()
    of = attrs.evolve(program, compute=attrs.evolve(program.compute, checkpointed=again))
    traced = phases.training(of, (0, 0))
    monkeypatch.setattr(phases, "trace", lambda make, steps, **_: measure(make, steps=steps))
    measured = phases.training(of, (0, 0))

    assert traced.peak.bytes == pytest.approx(measured.peak.bytes, rel=0.001)
    assert _held(traced) == _held(measured)


def _held(trace: Trace) -> int:
    return trace.peak.by_kind()["base weights"]


def test_a_process_keeps_its_part_of_the_blocks_and_the_plan_says_so(
    program: plan.Program, three_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[nn.Module] = []
    monkeypatch.setattr(phases, "trace", lambda make, steps, **_: found.append(make().__closure__))
