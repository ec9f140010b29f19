"""Weights that wait in the computer's memory: the same bytes, and at most two blocks on the device."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn

from lorac.estimate import phases
from runtime import plan
from runtime.errors import PlanError
from runtime.families import family
from runtime.offload import stream_blocks
from runtime.safeio.weights import open_weights
from tests.runtime.plans import carry_out, tiny_plan

CPU = torch.device("cpu")


def block_names(of: plan.Plan) -> tuple[str, ...]:
    base = family(of.program.base.family)
    return tuple(base.blocks(phases.bare(of.program, [base.BACKBONE], "fp32")))


def with_compute(of: plan.Plan, **changes: object) -> plan.Plan:
    program = attrs.evolve(of.program, compute=attrs.evolve(of.program.compute, **changes))
    return plan.make(program, of.outputs, of.estimate)


def learned(file: Path) -> dict[str, Tensor]:
    with open_weights(file) as weights:
        return {name: weights.load(name) for name in weights}


@pytest.fixture(scope="module")
def of(tiny_base: Path, tiny_data: Path) -> plan.Plan:
    return tiny_plan(tiny_base, tiny_data, dropout=0.1, micro_batch=2, accumulation=2)


@pytest.fixture(scope="module")
def through(of: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What a run learns that has everything on the device."""
    return learned(carry_out(of, tmp_path_factory.mktemp("through")))


@pytest.mark.parametrize("offloaded", ["all", "every second"])
@pytest.mark.parametrize("checkpointed", ["none", "all", "every third"])
def test_a_run_learns_the_same_bytes_whatever_waits_and_whatever_is_recomputed(
    of: plan.Plan, through: dict[str, Tensor], tmp_path: Path, offloaded: str, checkpointed: str
) -> None:
    steps = {"none": 1000, "all": 1, "every second": 2, "every third": 3}
    names = block_names(of)
    away = names[:: steps[offloaded]]
    again = () if checkpointed == "none" else names[:: steps[checkpointed]]

    made = with_compute(of, offloaded=("text_encoder", "vae", *away), checkpointed=again)
    found = learned(carry_out(made, tmp_path / "run"))

    assert found.keys() == through.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in through.items())


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "fp8"])
def test_a_quantised_block_may_wait_too(
    of: plan.Plan, tmp_path: Path, quantization: str, checkpointed: bool
) -> None:
    names = block_names(of)
    again = names if checkpointed else ()
    here = with_compute(of, quantization=quantization, checkpointed=again)
    away = with_compute(of, quantization=quantization, checkpointed=again, offloaded=("vae", *names))

    expected, found = (
        learned(carry_out(made, tmp_path / name)) for name, made in (("here", here), ("away", away))
    )

    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_sliced_attention_learns_the_same_up_to_rounding(
    of: plan.Plan, through: dict[str, Tensor], tmp_path: Path
) -> None:
    found = learned(carry_out(with_compute(of, attention_chunks=4), tmp_path / "run"))

    for name, tensor in through.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def test_pictures_are_drawn_through_offloaded_blocks(of: plan.Plan, tmp_path: Path) -> None:
    samples = attrs.evolve(of.outputs.samples, prompts=("noise",), every=2)
    drawn = attrs.evolve(of, outputs=attrs.evolve(of.outputs, samples=samples))
    pictures = []
    for name, offloaded in (("here", ()), ("away", ("text_encoder", "vae", *block_names(of)))):
        folder = carry_out(with_compute(drawn, offloaded=offloaded), tmp_path / name).parent
        pictures.append([path.read_bytes() for path in sorted(folder.rglob("*.png"))])

    assert pictures[0]
    assert pictures[0] == pictures[1]


def test_a_trained_text_encoder_may_be_streamed_too(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    of = tiny_plan(tiny_base, tiny_data, text_encoder=True)
    components = [family("sd1").BACKBONE, *family("sd1").TEXT_ENCODERS]
    names = tuple(family("sd1").blocks(phases.bare(of.program, components, "fp32")))
    assert any(name.startswith("text_encoder.") for name in names)

    here = learned(carry_out(of, tmp_path / "here"))
    away = learned(carry_out(with_compute(of, offloaded=("vae", *names)), tmp_path / "away"))

    assert all(torch.equal(here[name], away[name]) for name in here)


def test_an_unknown_block_is_named(of: plan.Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as refused:
        carry_out(
            with_compute(of, offloaded=("unet.attic",), checkpointed=("unet.cellar",)), tmp_path / "run"
        )

    assert refused.value.lines()[:2] == [
        "error: compute.checkpointed: no block is called unet.cellar",
        "error: compute.offloaded: no block is called unet.attic",
    ]


@pytest.mark.parametrize(("ahead", "most"), [(False, 1), (True, 2)])
def test_at_most_two_blocks_are_on_the_device_and_the_rest_is_let_go(ahead: bool, most: int) -> None:
    torch.manual_seed(0)
    blocks = [nn.Linear(4, 4) for _ in range(5)]
    adapters = [nn.Parameter(torch.randn(4)) for _ in blocks]
    reference = [nn.Linear(4, 4) for _ in blocks]
    for block, copy in zip(blocks, reference, strict=True):
        copy.load_state_dict(block.state_dict())
        block.requires_grad_(False)
    stream = stream_blocks({str(i): block for i, block in enumerate(blocks)}, (), CPU, ahead)
    assert stream is not None
    resident = []
    stream.fetched = lambda tensors: resident.append(len(stream._here) + 1)

    x = torch.randn(2, 4)
    mine, theirs = x, x
    for block, copy, adapter in zip(blocks, reference, adapters, strict=True):
        mine, theirs = block(mine * adapter), copy(theirs * adapter)
    expected = torch.autograd.grad(theirs.square().sum(), adapters)
    found = torch.autograd.grad(mine.square().sum(), adapters)

    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(resident) == 9  # five forward; the last one is still there for the backward
    assert max(resident) == most
    stream.rest()
    assert not stream._here
    assert all(
        block.weight.data_ptr() == host.host[0].data_ptr()
        for block, host in zip(blocks, stream.blocks, strict=True)
    )


def test_the_block_that_a_card_fetches_ahead_is_in_the_traced_peak(of: plan.Plan) -> None:
    names = block_names(of)
    on_card, on_cpu = (
        phases.training(with_compute(of, offloaded=names, device=device).program, (8, 6)).peak.by_kind()
        for device in ("cuda", "cpu")
    )

    assert on_card["base weights"] > on_cpu["base weights"]


def test_an_offloaded_block_is_not_in_the_traced_peak(of: plan.Plan) -> None:
    names = block_names(of)
    here = phases.training(of.program, (0, 0)).peak.by_kind()
    away = phases.training(with_compute(of, offloaded=names).program, (0, 0)).peak.by_kind()

    assert away["base weights"] < here["base weights"] / 2
    assert away["saved activations"] == here["saved activations"]
