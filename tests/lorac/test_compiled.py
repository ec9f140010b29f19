"""Whether blocks are compiled is the planner's: where they can be, and it pays back within the run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from transformers import AutoConfig

from lorac import calibrate
from lorac.compiled import FIELD
from lorac.estimate import cards, fused
from lorac.estimate.record import Call
from runtime import compiler, plan
from runtime.errors import SpecError
from runtime.families import causal_lm
from tests import texts

GXX = "g++ 12.2.0"
CALL = 1e-3
"""Seconds of a call that is no product."""

Planned = Callable[..., plan.Plan]


def calibration(start: float) -> cards.Calibration:
    """A machine whose compiler takes `start` seconds, and saves all of what lies between products."""
    speeds = {"bandwidth": 1e9, "fp32": 1e12, "fp16": None, "bf16": 1e12, "launch": 0.0}
    measured = cards.Measured(
        threads=1,
        versions={},
        computing={"mm": {"float32": cards.Line(CALL, 0.0, 0.0)}},
        moving={"add": {"float32": cards.Curve((8, 2**40), (CALL, CALL))}},
        launch={},
        compiling=cards.Compiling(start=start, call=0.0, saved=1.0),
    )
    return cards.Calibration(device="cpu", measured=measured, **speeds)


@pytest.fixture
def planned(tiny_lm: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """The tiny Llama's plan in bf16, on a machine of this calibration (None: of none)."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "version", lambda: GXX)

    def made(own: cards.Calibration | None, base: Path = tiny_lm, **changes: Any) -> plan.Plan:
        if own is not None:
            calibrate.keep(own)
        return texts.planned(base, tiny_text, tmp_path, **{"dtype": "bf16", **changes})

    return made


def reason(of: plan.Plan) -> tuple[str, str]:
    (one,) = (decision for decision in of.estimate.decisions if decision.field == FIELD)
    return one.value, one.reason


def test_blocks_are_compiled_where_it_pays_back_within_the_run(planned: Planned) -> None:
    eager, made = planned(calibration(9.0), compile=False), planned(calibration(9.0), steps=1000)
    estimate, saved = made.estimate, eager.estimate.seconds_per_step - made.estimate.seconds_per_step

    assert made.program.compute.compiled
    assert made.program.versions[compiler.NAME] == GXX
    assert saved > 0
    assert reason(made)[0] == "2 blocks"
    found = re.fullmatch(r"it pays back after (\d+) of 1,000 steps: .+ saved", reason(made)[1])
    assert found is not None
    assert (int(found[1]) - 1) * saved < 9.0 <= int(found[1]) * saved
    assert estimate.compile_seconds == 9.0
    assert estimate.seconds == pytest.approx(1000 * estimate.seconds_per_step + 9.0)
    assert estimate.host_bytes == eager.estimate.host_bytes + fused.RESIDENT
    assert planned(calibration(9.0), steps=1000).plan_hash == made.plan_hash


def test_a_short_run_stays_eager_and_says_after_how_many_steps_it_would_pay(planned: Planned) -> None:
    made = planned(calibration(1e4), steps=2)

    assert not made.program.compute.compiled
    assert compiler.NAME not in made.program.versions
    assert re.fullmatch(r"it would pay back after [\d,]+ steps, the run has 2", reason(made)[1])
    assert made.estimate.compile_seconds == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"compile": False}, "as the spec says"),
        ({"dtype": "fp32"}, "not in fp32: little would be gained"),
        ({"packing": False}, "rows have many lengths"),
        ({"card": "12GB"}, "not on a card: its memory could not be traced"),
    ],
)
def test_what_cannot_be_compiled_stays_eager_with_its_reason(
    changes: dict[str, Any], why: str, planned: Planned
) -> None:
    made = planned(calibration(0.0), **changes)
    assert not made.program.compute.compiled
    assert reason(made) == ("none", why)


def test_nothing_is_compiled_on_a_machine_that_was_not_measured(planned: Planned) -> None:
    assert reason(planned(None)) == ("none", "what it saves here is not known: lorac calibrate")


def test_nothing_is_compiled_where_there_is_no_compiler(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "version", lambda: "")
    assert reason(planned(calibration(0.0))) == ("none", compiler.MISSING)


def test_a_spec_that_pins_it_has_its_blocks_compiled_though_nothing_was_measured(planned: Planned) -> None:
    made = planned(None, compile=True)
    assert made.program.compute.compiled
    assert reason(made) == ("2 blocks", "as the spec says")


@pytest.mark.parametrize(
    ("changes", "why", "hint"),
    [
        ({"dtype": "fp32"}, "not in fp32: little would be gained", "Fit(dtype='bf16')"),
        ({"dropout": 0.1}, "dropout's masks cannot be traced", "leave dropout out"),
        ({"packing": False}, "rows have many lengths", "Sequences(packing=True) makes them one"),
        ({"card": "12GB"}, "not on a card: its memory could not be traced", "plan for the CPU"),
    ],
)
def test_a_spec_that_pins_it_where_it_cannot_be_is_refused(
    changes: dict[str, Any], why: str, hint: str, planned: Planned
) -> None:
    with pytest.raises(SpecError) as refused:
        planned(None, compile=True, **changes)
    error, told = refused.value.lines()
    assert error.endswith(f"fit.compile cannot be True: {why}")
    assert told == f"hint: {hint}, or leave compile out"


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("starcoder2", {}, "starcoder2 was not tried"),
        ("llama", {"attention_dropout": 0.1}, "the base's config has attention_dropout"),
    ],
)
def test_a_base_that_was_not_tried_is_refused(
    kind: str, more: dict[str, Any], why: str, planned: Planned, tmp_path: Path
) -> None:
    base = causal_lm.tiny(tmp_path / kind, AutoConfig.for_model(kind, **causal_lm.TINY, **more))
    with pytest.raises(SpecError, match=f"fit.compile cannot be True: {why}"):
        planned(None, base, compile=True)


def test_blocks_that_make_the_same_calls_are_one_graph() -> None:
    product, sum_ = (
        Call(name, "", "forward", "bfloat16", flops, 8) for name, flops in (("mm", 8), ("add", 0))
    )
    calls = {"first": [product, sum_], "second": [product, sum_, sum_], "third": [product, sum_]}
    card = cards.calibrated(cards.cpu(), calibration(1.0))
    measured = card.measured
    assert measured is not None
    card = attrs.evolve(
        card,
        measured=attrs.evolve(measured, compiling=cards.Compiling(start=1.0, call=0.5, saved=0.75)),
    )

    gain = fused.gain(calls, ["third"], 1, card)

    assert gain.takes == 1.0 + 0.5 * (2 + 3)
    assert gain.saves == pytest.approx(0.75 * CALL * (1 + 2 + 2))  # what is recomputed is computed twice
