"""Which runs of a sweep are stopped: at which steps they are judged, against whom, and what is only chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from lorac import figures, halving
from lorac.figures import Row
from lorac.halving import Contender, Watch
from runtime import plan
from tests.lorac.runs import made_plan, write_run

STEPS = 90


def losses(level: float, steps: int) -> list[float]:
    """Losses around a level, with the same noise in every run, as runs of one sweep have it."""
    noise = random.Random(0)
    return [level + noise.uniform(-0.1, 0.1) for _ in range(steps)]


def under_way(folder: Path, name: str, of_steps: Sequence[float]) -> plan.Plan:
    of = made_plan(folder, name, steps=STEPS)
    write_run(of, of_steps, is_done=False)
    return of


def after(of: plan.Plan, steps: int) -> Row:
    run = figures.begun(figures.folder(of), of.plan_hash)
    row = figures.after(run, steps) if run else None
    assert row is not None
    return row


def watch(of: plan.Plan, among: Sequence[plan.Plan]) -> Watch:
    return halving.watch(Contender.of(of), [Contender.of(one) for one in among])


def test_a_run_is_judged_after_a_ninth_and_a_third_of_its_steps_where_a_loss_can_be_told_there() -> None:
    assert halving.rungs(90) == [10, 30]
    assert halving.rungs(350) == [38, 116]
    assert halving.rungs(60) == [20]
    assert halving.rungs(29) == []


def test_one_of_three_goes_on_and_a_worse_one_only_where_it_is_worse_by_chance(tmp_path: Path) -> None:
    good, worse = (after(under_way(tmp_path, f"{level}", losses(level, 30)), 30) for level in (0.3, 0.5))
    scattered = [loss + 0.001 + (-1) ** step * 0.05 for step, loss in enumerate(losses(0.3, 30))]
    chance = after(under_way(tmp_path, "chance", scattered), 30)
    assert halving.is_weak(worse, [good, chance])
    assert not halving.is_weak(good, [worse, chance])
    assert not halving.is_weak(chance, [good, worse])
    assert not halving.is_weak(worse, [])


def test_losses_that_mean_different_things_stop_nothing(tmp_path: Path) -> None:
    other = made_plan(tmp_path, "other", steps=STEPS, objective=plan.Objective(snr_gamma=5.0))
    write_run(other, losses(0.1, 30), is_done=False)
    worse = after(under_way(tmp_path, "worse", losses(0.5, 30)), 30)
    assert not halving.is_weak(worse, [after(other, 30)])


def test_a_run_is_held_against_those_that_have_come_as_far_once_at_each_rung(tmp_path: Path) -> None:
    good = made_plan(tmp_path, "good", steps=STEPS)
    late = made_plan(tmp_path, "late", steps=STEPS)
    weak = under_way(tmp_path, "weak", losses(0.9, 1))
    watched = watch(weak, [good, late, weak])
    assert not watched.look()
    write_run(good, losses(0.3, 9), is_done=False)
    write_run(weak, losses(0.9, 12), is_done=False)
    assert not watched.look()  # nobody else is there yet
    write_run(good, losses(0.3, 90))
    assert not watched.look()  # it was judged there
    write_run(weak, losses(0.9, 29), is_done=False)
    assert not watched.look()
    write_run(weak, losses(0.9, 30), is_done=False)
    assert watched.look()
    assert watched.found_weak


def test_a_run_that_goes_on_is_not_judged_again_where_it_was(tmp_path: Path) -> None:
    good = under_way(tmp_path, "good", losses(0.3, 90))
    weak = under_way(tmp_path, "weak", losses(0.9, 15))
    watched = watch(weak, [good, weak])
    assert watched.left == [30]
    assert not watched.look()


def test_the_metrics_of_an_earlier_plan_in_the_folder_are_not_this_runs(tmp_path: Path) -> None:
    good = under_way(tmp_path, "good", losses(0.3, 90))
    under_way(tmp_path, "again", losses(0.9, 90))
    again = made_plan(tmp_path, "again", steps=STEPS, seed=9)
    watched = watch(again, [good, again])
    assert watched.left == [10, 30]
    assert not watched.look()
    write_run(again, losses(0.9, 10), is_done=False)
    assert watched.look()


def test_the_last_step_is_read_from_the_end_of_a_file_whose_last_line_may_be_half_written(
    tmp_path: Path,
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert halving.last_step(metrics) == 0
    metrics.write_text(
        "".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in range(1, 1001)) + '{"step": 10'
    )
    assert halving.last_step(metrics) == 1000
