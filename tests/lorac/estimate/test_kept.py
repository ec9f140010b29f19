"""Kept traces: the same as new ones, shared by cards, made anew where damaged."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from lorac.estimate import phases
from lorac.estimate.kept import Traces
from lorac.estimate.record import Trace
from runtime import plan
from runtime.families.inspect import inspect
from runtime.safeio.digest import sha256_file
from tests.lorac.plans import PROGRAM


@pytest.fixture(scope="module")
def program(tiny_base: Path) -> plan.Program:
    base = inspect(tiny_base, sha256_file, "auto").base
    adapter = attrs.evolve(PROGRAM.adapter, rank=2, targets={"unet": r".*\.attn1\.to_q"})
    items = tuple(attrs.evolve(item, bucket=(64, 64)) for item in PROGRAM.data.items)
    return attrs.evolve(PROGRAM, base=base, adapter=adapter, data=attrs.evolve(PROGRAM.data, items=items))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The capabilities that a step was traced for."""
    made: list[tuple[int, int]] = []
    real = phases.training

    def training(program: plan.Program, capability: tuple[int, int]) -> Trace:
        made.append(capability)
        return real(program, capability)

    monkeypatch.setattr(phases, "training", training)
    return made


def test_a_kept_trace_is_the_trace_that_was_made(program: plan.Program, tmp_path: Path) -> None:
    made = Traces(tmp_path).training(program, (8, 6))

    assert Traces(tmp_path).training(program, (8, 6)) == made
    assert made.peak_bytes > 0


def test_what_does_not_move_memory_asks_for_no_new_trace(
    program: plan.Program, tmp_path: Path, counted: list[tuple[int, int]]
) -> None:
    traces = Traces(tmp_path)
    longer = attrs.evolve(program, train=attrs.evolve(program.train, steps=7, seed=8, learning_rate=1.0))
    larger = attrs.evolve(program, train=attrs.evolve(program.train, accumulation=4, effective_batch=8))
    for one in (program, longer, larger):
        traces.training(one, (8, 6))

    assert counted == [(8, 6)]


def test_another_micro_batch_or_capability_is_another_trace(
    program: plan.Program, tmp_path: Path, counted: list[tuple[int, int]]
) -> None:
    traces = Traces(tmp_path)
    traces.training(program, (8, 6))
    traces.training(program, (7, 5))
    traces.training(attrs.evolve(program, train=attrs.evolve(program.train, micro_batch=4)), (8, 6))

    assert counted == [(8, 6), (7, 5), (8, 6)]


def test_a_damaged_file_is_made_anew(
    program: plan.Program, tmp_path: Path, counted: list[tuple[int, int]]
) -> None:
    made = Traces(tmp_path).training(program, (8, 6))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])

    assert Traces(tmp_path).training(program, (8, 6)) == made
    assert len(counted) == 2
