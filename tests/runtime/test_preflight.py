"""What a plan says and the runtime cannot do is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from runtime import plan
from runtime.errors import PlanError
from tests.runtime.plans import carry_out, tiny_plan

HINT = "hint: make the plan again and review it: lorac plan SPEC"


def test_what_the_runtime_does_not_act_on_is_refused_all_at_once(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = tiny_plan(tiny_base, tiny_data, quantization="nf4")
    optimizer = attrs.evolve(of.program.train.optimizer, state_bits=8)
    train = attrs.evolve(of.program.train, optimizer=optimizer)
    made = plan.make(attrs.evolve(of.program, train=train), of.outputs, of.estimate)

    with pytest.raises(PlanError) as refused:
        carry_out(made, tmp_path)

    assert refused.value.lines() == [
        "error: compute.quantization: 'nf4' is not carried out by this version of lorac",
        "error: train.optimizer.state_bits: 8 is not carried out by this version of lorac",
        HINT,
    ]
