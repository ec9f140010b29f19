"""What came of runs: last losses with their noise, which run is the best, what is a gain and what is chance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac import figures
from lorac.figures import Row
from runtime import plan
from runtime.plan_data import TextFile
from tests.lorac.runs import made_plan, write_run

STEPS = 40


def row(folder: Path, name: str, level: float, *, train: dict[str, Any] | None = None, **files: Any) -> Row:
    """A finished run whose losses lie around `level`, the same noise in every run."""
    noise = random.Random(0)
    of = made_plan(folder, name, **(train or {}))
    write_run(of, [level + noise.uniform(-0.1, 0.1) for _ in range(of.program.train.steps)], **files)
    return figures.row(of, {})


def test_the_last_loss_is_the_mean_of_the_last_quarter_with_its_noise(tmp_path: Path) -> None:
    of = made_plan(tmp_path, steps=80)
    write_run(of, [9.0] * 60 + [0.4, 0.6] * 10)
    found = figures.row(of, {}).training
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert (found.high - found.mean) == pytest.approx(1.96 * 0.1026 / 20**0.5, rel=1e-3)


def test_a_folder_of_another_plan_is_not_this_ones_run(tmp_path: Path) -> None:
    write_run(made_plan(tmp_path, seed=1), [0.5] * STEPS)
    assert figures.row(made_plan(tmp_path, seed=2), {}).state == "waiting"


def test_the_best_is_by_the_held_out_loss_where_every_run_has_one(tmp_path: Path) -> None:
    good = row(tmp_path, "good", 0.9, held_out=[(40, 0.3, 0.29, 0.31)])
    copying = row(tmp_path, "copying", 0.5, held_out=[(40, 0.4, 0.39, 0.41)])
    assert figures.best([good, copying]) is good
    assert figures.best([attrs.evolve(good, held_out=None), copying]) is copying


def test_losses_of_other_objectives_are_not_compared(tmp_path: Path) -> None:
    weighed = row(tmp_path, "weighed", 0.1, train={"objective": plan.Objective(snr_gamma=5.0)})
    plain = row(tmp_path, "plain", 0.5)
    assert figures.best([weighed, plain]) is None
    assert figures.gain(weighed, plain) is None
    assert "No best" in figures.text([weighed, plain], 100)


def test_runs_on_the_same_text_are_compared(tmp_path: Path) -> None:
    file = TextFile(
        path="a.jsonl",
        sha256="0" * 64,
        shape="instructions",
        columns={"instruction": "question"},
        weight=1.0,
        samples=9,
        trained=9,
    )
    text = plan.Texts(
        digest="0" * 64, files=(file,), expected=9, length=64, packing=False, template="", held_out=0.0
    )
    low, high = (row(tmp_path, f"{level}", level) for level in (0.4, 0.5))
    low, high = (
        attrs.evolve(one, plan=attrs.evolve(one.plan, program=attrs.evolve(one.plan.program, data=text)))
        for one in (low, high)
    )
    assert figures.best([high, low]) is low


def test_how_pictures_are_varied_is_nothing_to_the_held_out_loss(tmp_path: Path) -> None:
    points = [(40, 0.3, 0.29, 0.31)]
    plain = row(tmp_path, "plain", 0.5, held_out=points)
    data = attrs.evolve(plain.plan.program.data, caption_dropout=0.1)
    program = attrs.evolve(plain.plan.program, data=data)
    dropped = attrs.evolve(plain, plan=plan.make(program, plain.plan.outputs, plain.plan.estimate))
    assert figures.yardstick([plain, dropped]) == figures.HELD_OUT
    assert figures.yardstick([attrs.evolve(one, held_out=None) for one in (plain, dropped)]) == ""


def test_runs_that_saw_the_same_noise_are_compared_step_by_step(tmp_path: Path) -> None:
    before, after = row(tmp_path, "before", 0.50), row(tmp_path, "after", 0.49)
    found = figures.gain(before, after)
    assert found is not None
    assert found.value == pytest.approx(0.01)
    assert found.is_real
    other = row(tmp_path, "other", 0.49, train={"seed": 5})
    found = figures.gain(before, other)
    assert found is not None
    assert not found.is_real


def test_a_held_out_gain_is_real_beyond_both_intervals(tmp_path: Path) -> None:
    def measured(name: str, loss: float) -> Row:
        return row(tmp_path, name, 0.5, held_out=[(40, loss, loss - 0.03, loss + 0.03)])

    before = measured("before", 0.5)
    gains = [figures.gain(before, measured(f"at-{loss}", loss)) for loss in (0.47, 0.45)]
    assert [one.is_real for one in gains if one] == [False, True]


def test_the_table_marks_the_best_and_says_what_is_not_there(tmp_path: Path) -> None:
    good = attrs.evolve(row(tmp_path, "good", 0.4), settings={"train.learning_rate": 1e-4})
    bad = attrs.evolve(row(tmp_path, "bad", 0.5), settings={"train.learning_rate": 1e-2})
    gone = figures.row(made_plan(tmp_path, "gone"), {"train.learning_rate": 0.1}, "diverged")
    head, *lines = figures.text([good, bad, gone], 100).splitlines()
    assert head.split() == ["train.learning_rate", "training", "loss", "time", "memory"]
    assert lines[0].split()[0] == "0.0001"
    assert lines[0].endswith("best")
    assert not lines[1].endswith("best")
    assert lines[2].split() == ["0.1", "diverged"]
