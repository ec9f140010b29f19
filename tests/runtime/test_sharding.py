"""Blocks split among processes: what each one keeps, and that the plan knows it. The processes are fake, as in a
trace; the tensors are real. What real ones learn is in test_processes.py."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lorac import sharding as model
from lorac.estimate import phases
from lorac.estimate.processes import first_of
from lorac.estimate.record import Trace
from lorac.estimate.trace import materialize, measure
from runtime import plan, sharding
from runtime.errors import PlanError
from runtime.families import family, flux1, inspect
from runtime.safeio import digest
from tests.lorac.plans import ESTIMATE, OUTPUTS, PROGRAM

CPU = torch.device("cpu")


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


def test_a_process_keeps_its_part_of_the_blocks_and_the_plan_says_so(program: plan.Program) -> None:
    modules = phases.bare(program, [flux1.BACKBONE], "fp32")
    blocks = flux1.blocks(modules)
    weights = [sum(one.numel() * one.itemsize for one in block.parameters()) for block in blocks.values()]
    materialize(*modules.values())
    with first_of(2):
        sharding.split(modules, blocks, CPU)

    parts = [one for one in modules[flux1.BACKBONE].parameters() if isinstance(one, DTensor)]
    here = sum(one.to_local().untyped_storage().nbytes() for one in parts)
    assert here == pytest.approx(model.kept(weights, 2), rel=0.01)


class Twins(nn.Module):
    """Two blocks in a list, called from a module of their own; one weight is in both, one in none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = nn.Module()
        self.inner.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2))
        self.inner.blocks[1][0].weight = self.inner.blocks[0][0].weight


def test_what_is_trained_or_shared_or_in_no_block_stays_whole() -> None:
    of = Twins().requires_grad_(False)
    of.inner.blocks[0][1].bias.requires_grad_(True)
    paths = ("inner.blocks.0", "inner.blocks.1")
    name_of = {one: name for name, one in of.named_parameters()}

    assert sorted(name_of[one] for one in sharding.whole(of, paths)) == [
        "first.bias",
        "first.weight",
        "inner.blocks.0.0.weight",
        "inner.blocks.0.1.bias",
    ]
    assert sharding.around(of, paths) is of.inner
    assert sharding.around(of, ["first", "inner.blocks.0"]) is of


def test_gathering_takes_a_block_twice_or_two_neighbours() -> None:
    assert model.gathered([10, 30, 20]) == 60
    assert model.gathered([10, 11, 12]) == 24
    assert model.freed([100] * 10, 4) == 1000 - 250 - 200
    assert model.freed([100], 2) < 0  # nothing is gained by one block


def test_a_plan_that_splits_what_cannot_be_split_is_refused(program: plan.Program) -> None:
    train = attrs.evolve(program.train, processes=1, micro_batch=2, accumulation=6)
    compute = attrs.evolve(program.compute, quantization="nf4", offloaded=("transformer.a",))
    of = plan.make(attrs.evolve(program, train=train, compute=compute), OUTPUTS, ESTIMATE)

    with pytest.raises(PlanError) as refused:
        plan.loads(plan.dumps(of))

    said = [problem.what for problem in refused.value.problems]
    assert [what for what in said if "sharded" in what] == [
        "compute.sharded cannot go with only one process",
        "compute.sharded cannot go with a base in nf4",
        "compute.sharded cannot go with blocks offloaded",
    ]
