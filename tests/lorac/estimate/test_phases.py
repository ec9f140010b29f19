"""Every phase of a run is planned: named, in order, and as large as the runtime's own run of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac.compile import written_bytes
from lorac.estimate import cards, cuda, host, phases
from lorac.estimate.cost import Cost, Costs
from runtime import plan
from runtime.families.inspect import inspect
from runtime.safeio.digest import sha256_file
from tests.lorac.plans import OUTPUTS, PROGRAM
from tests.validate.phases import Setting, compare, settings

MIB = 2**20


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> plan.Base:
    return inspect(tiny_base, sha256_file, "auto").base


def program(base: plan.Base, device: str = "cuda", **compute: Any) -> plan.Program:
    """One sample of 64 px a step."""
    items = tuple(attrs.evolve(item, bucket=(64, 64)) for item in PROGRAM.data.items)
    dtype = "bf16" if device == "cuda" else "fp32"
    return attrs.evolve(
        PROGRAM,
        base=base,
        adapter=attrs.evolve(PROGRAM.adapter, rank=2, targets={"unet": r".*\.attn1\.to_q"}),
        data=attrs.evolve(PROGRAM.data, items=items),
        train=attrs.evolve(PROGRAM.train, micro_batch=1, accumulation=4),
        compute=attrs.evolve(PROGRAM.compute, **{"device": device, "dtype": dtype, **compute}),
    )


def outputs(side: int = 64, **samples: Any) -> plan.Outputs:
    """One prompt, drawn at `side` pixels."""
    given = {"prompts": ("a",), "width": side, "height": side, **samples}
    return attrs.evolve(OUTPUTS, samples=attrs.evolve(OUTPUTS.samples, **given))


def cost(of: plan.Program, wanted: plan.Outputs, cache: Path) -> Cost:
    card = cards.cpu() if of.compute.device == "cpu" else cards.find("12GB")
    return Costs(card, cache, wanted).exact(of)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_plan_names_its_phases_in_the_order_of_the_run(base: plan.Base, cache: Path, device: str) -> None:
    drawn = cost(program(base, device), outputs(), cache)
    silent = cost(program(base, device), outputs(prompts=()), cache)

    assert list(drawn.phases) == ["load", "cache", "train", "save", "sample"]
    assert list(silent.phases) == ["load", "cache", "train", "save"]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_peak_is_the_largest_phase_and_its_kinds_add_up_to_it(
    base: plan.Base, cache: Path, device: str
) -> None:
    small, large = (cost(program(base, device), outputs(side), cache) for side in (64, 512))

    assert max(large.phases, key=lambda name: large.phases[name]) == "sample"
    assert small.phases["train"] == large.phases["train"]
    for one in (small, large):
        assert sum(one.peak_kinds.values()) == one.peak_bytes == max(one.phases.values())
        assert sum(one.by_kind.values()) == one.phases["train"]


def test_guidance_calls_the_denoiser_with_two_latents(base: plan.Base) -> None:
    def drawing(guidance: float) -> int:
        calls = phases.pausing(program(base), outputs(64, guidance=guidance), (8, 6)).calls
        return sum(call.flops for call in calls if call.module.startswith("UNet"))

    assert drawing(4.0) == 2 * drawing(1.0) > 0


def test_while_encoding_the_denoiser_is_on_the_card_too(base: plan.Base) -> None:
    of = program(base)
    trace = phases.preparing(of, (8, 6))
    held = trace.phases["cache"].by_kind()["base weights"]
    every = [("unet", "bf16"), ("text_encoder", "fp32"), ("vae", "fp32")]

    assert held >= sum(_size(of, name, dtype) for name, dtype in every)


def test_a_denoiser_whose_blocks_are_offloaded_waits_in_main_memory(base: plan.Base) -> None:
    away = ("unet.mid_block.resnets.0",)
    here, there = (phases.preparing(program(base, offloaded=names), (8, 6)) for names in ((), away))
    denoiser = _size(program(base), "unet", "bf16")

    assert here.phases["cache"].bytes - there.phases["cache"].bytes >= denoiser
    assert host.traced_bytes(there, "cache") - host.traced_bytes(here, "cache") == denoiser


def test_encoders_that_wait_are_in_main_memory_while_training_and_on_the_card_while_drawing(
    base: plan.Base, cache: Path
) -> None:
    names = ("text_encoder", "vae")
    stay, wait = (cost(program(base, offloaded=one), outputs(), cache) for one in ((), names))
    size = sum(_size(program(base), name, "fp32") for name in names)
    beside = phases.waiting(program(base, offloaded=names), outputs(), encoded_data=0)

    assert beside["train"]["offloaded encoders"] == size
    assert "offloaded encoders" not in beside["sample"]
    assert wait.phases["train"] < stay.phases["train"]
    assert wait.phases["sample"] == stay.phases["sample"]


def test_main_memory_grows_with_the_base(base: plan.Base, cache: Path) -> None:
    wide = attrs.evolve(base, architecture=_with(base, "unet", block_out_channels=[128] * 4))
    for device in ("cuda", "cpu"):
        small, large = (cost(program(one, device), outputs(), cache).host_bytes for one in (base, wide))
        assert large - small > 20 * MIB
        assert small > host.process_bytes(device)


def test_what_neither_saving_nor_drawing_depends_on_asks_for_no_new_trace(
    base: plan.Base, cache: Path, tmp_path: Path
) -> None:
    costs = Costs(cards.find("12GB"), tmp_path, outputs())
    of = program(base)
    costs.exact(of)
    before = len(list(tmp_path.rglob("*.gz")))
    costs.exact(attrs.evolve(of, train=attrs.evolve(of.train, micro_batch=2, accumulation=2)))

    assert (before, len(list(tmp_path.rglob("*.gz")))) == (3, 4)


def test_a_run_writes_one_checkpoint_more_than_it_keeps_but_never_more_than_it_comes_to() -> None:
    often = attrs.evolve(OUTPUTS, save_steps=10, keep_checkpoints=2)
    once = attrs.evolve(OUTPUTS, save_steps=0, keep_checkpoints=2)

    of = attrs.evolve(PROGRAM, train=attrs.evolve(PROGRAM.train, steps=100))
    chooses = attrs.evolve(of, evaluation=plan.Evaluation(choose="best", every=10))

    assert written_bytes(1000, of, often) == 3000
    assert (
        written_bytes(1000, chooses, often) == 7000
    )  # the chosen and the lowest, now and of the one to go back to
    assert written_bytes(1000, of, once) == 2000  # the last step's, and the exports
    assert written_bytes(1000, of, attrs.evolve(outputs(), save_steps=0)) == 2000 + 2 * 2 * 64 * 64 * 3


def test_each_phase_is_as_large_as_the_runtimes_own(tmp_path: Path) -> None:
    one = _named("tiny, batch 2")
    some = attrs.evolve(one, parts={**one.parts, "held_out": 0.4, "text_encoder": True})
    found = compare(some, tmp_path, with_process=False)

    assert list(found.predicted) == ["load", "cache", "train", "evaluate", "save", "sample"]
    for name, measured in found.measured.items():
        assert 0.95 * measured < found.predicted[name] < 1.1 * measured, name


def test_what_is_held_out_is_evaluated_in_a_phase_of_its_own(tmp_path: Path) -> None:
    found = compare(_named("tiny language model, held out"), tmp_path, with_process=False)

    assert list(found.predicted) == ["load", "cache", "train", "evaluate", "save", "sample"]
    assert 0.95 < found.predicted["evaluate"] / found.measured["evaluate"] < 1.1


def _named(name: str) -> Setting:
    return next(one for one in settings() if one.name == name)


def _with(base: plan.Base, component: str, **config: Any) -> dict[str, Any]:
    """The base's architecture with some of a component's config changed."""
    return {**base.architecture, component: {**base.architecture[component], **config}}


def _size(of: plan.Program, component: str, dtype: plan.Dtype) -> int:
    module = phases.bare(of, [component], dtype)[component]
    return sum(t.numel() * t.itemsize for t in (*module.parameters(), *module.buffers()))


def test_a_picture_in_tiles_takes_less_and_moves_no_other_phase(base: plan.Base, cache: Path) -> None:
    whole, tiled = (cost(program(base), outputs(1024, tiled=one), cache) for one in (False, True))

    context = cuda.overhead(cards.find("12GB"))
    assert tiled.phases["sample"] - context < (whole.phases["sample"] - context) / 2
    assert {**tiled.phases, "sample": 0} == {**whole.phases, "sample": 0}


def test_blocks_away_are_not_reckoned_to_be_here_where_the_denoiser_is_not_called(
    base: plan.Base, cache: Path
) -> None:
    """So that a point is not refused for two blocks that never come: encoding is the peak of this one."""
    small = program(base)
    items = tuple(attrs.evolve(item, bucket=(512, 512)) for item in small.data.items)
    large = attrs.evolve(small, data=attrs.evolve(small.data, items=items))
    costs = Costs(cards.find("12GB"), cache, outputs(prompts=()))
    blocks = costs.blocks(large)
    away = attrs.evolve(large, compute=attrs.evolve(large.compute, offloaded=blocks, checkpointed=blocks))
    exact = costs.exact(away)

    assert exact.peak_bytes == exact.phases["cache"], exact.phases
    assert costs.quick(away).peak_bytes == pytest.approx(exact.peak_bytes, abs=100_000)
