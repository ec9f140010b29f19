"""Many pictures lie beside the plan: the plan is the same, and a file that is not its own is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import attrs
import pytest

from runtime import plan, plan_items
from runtime.errors import PlanError
from tests.runtime.plans import tiny_plan


@pytest.fixture
def many(tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> plan.Plan:
    """Six pictures, one with a caption that a careless reader would take for two lines."""
    monkeypatch.setattr(plan_items, "MANY", 6)
    of = tiny_plan(tiny_base, tiny_data)
    data = plan.pictures(of.program.data)
    odd = attrs.evolve(data.items[0], caption="one\u2028line\x85of text")
    program = attrs.evolve(of.program, data=attrs.evolve(data, items=(odd, *data.items[1:])))
    return plan.make(program, of.outputs, of.estimate)


def test_a_plan_of_many_pictures_reads_back_the_same_and_stays_short(many: plan.Plan, tmp_path: Path) -> None:
    plan.write(many, tmp_path / "plan.json")

    assert plan.read(tmp_path / "plan.json") == many
    assert len((tmp_path / "plan-data.jsonl").read_bytes().splitlines()) == 6
    assert plan.pictures(many.program.data).items[0].sha256 not in (tmp_path / "plan.json").read_text("utf-8")


def test_the_hash_does_not_depend_on_where_the_pictures_lie(
    many: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.write(many, tmp_path / "plan.json")
    monkeypatch.setattr(plan_items, "MANY", 7)

    assert plan.make(many.program, many.outputs, many.estimate).plan_hash == many.plan_hash
    plan.write(plan.read(tmp_path / "plan.json"), tmp_path / "plan.json")
    assert not (tmp_path / "plan-data.jsonl").exists()
    assert plan.read(tmp_path / "plan.json") == many


def test_an_edited_or_missing_file_of_pictures_is_refused_by_name(many: plan.Plan, tmp_path: Path) -> None:
    plan.write(many, tmp_path / "plan.json")
    beside = tmp_path / "plan-data.jsonl"
    beside.write_bytes(beside.read_bytes().replace(b'"repeats": 1', b'"repeats": 2', 1))

    with pytest.raises(PlanError, match=r"plan-data\.jsonl: is not the file that the plan was written with"):
        plan.read(tmp_path / "plan.json")
    beside.unlink()
    with pytest.raises(PlanError, match=r"plan-data\.jsonl: does not exist"):
        plan.read(tmp_path / "plan.json")


def test_reading_holds_little_more_than_the_pictures_themselves(many: plan.Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    peaks = []
    for count in (500, 2500):
        data = plan.pictures(many.program.data)
        items = tuple(
            attrs.evolve(data.items[0], path=f"{at}.png", sha256=f"{at:064}", caption=f"picture {at}")
            for at in range(count)
        )
        program = attrs.evolve(many.program, data=attrs.evolve(data, items=items))
        plan.write(plan.make(program, many.outputs, many.estimate), path)
        del items, program
        tracemalloc.start()
        read = plan.read(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        del read
    assert (peaks[1] - peaks[0]) / 2000 < 1000, "bytes a picture: some 600 are the item's own"
