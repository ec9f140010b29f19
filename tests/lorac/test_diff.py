"""What differs between two plans."""

from __future__ import annotations

import attrs

from lorac.diff import MISSING, Change, differences
from tests.lorac.plans import ESTIMATE, OUTPUTS, PROGRAM, a_plan


def test_a_plan_does_not_differ_from_itself() -> None:
    assert differences(a_plan(), a_plan()) == []


def test_fields_are_told_by_their_path_what_decides_the_bytes_first() -> None:
    program = attrs.evolve(PROGRAM, train=attrs.evolve(PROGRAM.train, seed=1))
    other = a_plan(program=program, outputs=attrs.evolve(OUTPUTS, tags=("x",)))
    assert differences(a_plan(), other) == [
        Change("program.train.seed", 0, 1),
        Change("outputs.tags", [], ["x"]),
    ]


def test_pictures_are_told_by_their_path_and_not_their_place() -> None:
    (item,) = PROGRAM.data.items
    before = attrs.evolve(item, path="0.png")
    data = attrs.evolve(PROGRAM.data, items=(before, attrs.evolve(item, caption="a dog")))
    changes = differences(a_plan(), a_plan(program=attrs.evolve(PROGRAM, data=data)))
    assert sum(change.before is MISSING for change in changes) == len(attrs.fields(type(item)))
    assert {change.field for change in changes} == {
        "program.data.items[a.png].caption",
        *(f"program.data.items[0.png].{name}" for name in attrs.fields_dict(type(item))),
    }


def test_decisions_are_told_by_their_field() -> None:
    first, *rest = ESTIMATE.decisions
    changed = attrs.evolve(ESTIMATE, decisions=(attrs.evolve(first, value="SDXL"), *rest))
    assert differences(a_plan(), a_plan(estimate=changed)) == [
        Change("estimate.decisions[base].value", "Stable Diffusion 1.x", "SDXL")
    ]
