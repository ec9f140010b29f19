"""The benchmark counts what it says it counts, and compares what can be compared."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.clock import Clock
from tests.bench.language import report
from tests.bench.language.measure import Counting, Seen, by_step, result
from tests.bench.language.setting import Setting, Task, Way, shuffled_rows

WAY = Way(trainer="peft", batches="grouped", dtype="float32", micro_batch=4)
SETTING = Setting(model="m", train="t", train_packed="p", held_out="h", steps=4)


def clock() -> Clock:
    """A step each two seconds, the first two slower."""
    return Clock(
        began=100.0,
        first_step=107.0,
        ends=[110.0, 115.0, 117.0, 119.0],
        cpu=[5.0, 10.0, 13.0, 16.0],
        losses=[4.0, 3.0, 2.0, 1.0],
        peak_before=300,
        step_peak=200,
    )


def test_speed_is_taken_after_the_warm_up_alone() -> None:
    seen = [[Seen(trained=9, tokens=90, places=100)] * 2] * 2 + [
        [Seen(trained=30, tokens=60, places=80)] * 2
    ] * 2
    found = result(Task(setting=SETTING, way=WAY), clock(), seen, held_out=1.5)
    assert found.trained_per_second == 4 * 30 / 4
    assert found.tokens_per_second == 4 * 60 / 4
    assert found.trained_per_cpu_second == 4 * 30 / 6
    assert found.seconds_per_step == 2
    assert found.cpu_seconds_per_step == 3
    assert found.padding == pytest.approx(0.25)
    assert found.start_seconds == 7
    assert found.peak_bytes == 300
    assert found.last_loss == 1.0


def test_steps_that_are_missing_are_no_result() -> None:
    with pytest.raises(ValueError, match="4 steps ended"):
        result(
            Task(setting=SETTING, way=WAY), clock(), [[Seen(trained=1, tokens=1, places=1)]] * 3, held_out=1.0
        )


def test_padding_is_no_token_and_what_was_fetched_ahead_is_left_out() -> None:
    import torch

    def collate(features: list[Any]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.tensor([[1, 2, 3], [1, 2, 0]]),
            "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
            "labels": torch.tensor([[-100, 2, 3], [-100, 2, -100]]),
        }

    counting = Counting(collate)
    for _ in range(5):
        counting([])
    steps = by_step(counting.seen, steps=2, micro_batches=2)
    assert [len(step) for step in steps] == [2, 2]
    assert steps[0][0] == Seen(trained=3, tokens=5, places=6)


def test_a_task_survives_the_command_line() -> None:
    task = Task(setting=SETTING, way=WAY)
    assert Task.loads(task.dumps()) == task


def test_held_out_rows_are_never_trained_on() -> None:
    rows = [row["instruction"] for row in shuffled_rows()]
    assert rows == [row["instruction"] for row in shuffled_rows()]
    at = round(len(rows) * 0.1)
    assert not set(rows[:at]) & set(rows[at:])


def run(speed: float, memory: int, wall: float | None = None) -> dict[str, Any]:
    """`wall`: the speed by the clock, where the core was shared."""
    return {
        **dict.fromkeys(report.FIGURES, 1.0),
        "trained_per_second": wall or speed,
        "trained_per_cpu_second": speed,
        "peak_bytes": memory,
    }


def test_lorac_is_held_against_the_faster_peer_of_its_own_kind() -> None:
    ways = [
        WAY,
        Way(trainer="trl", batches="flattened", dtype="float32", micro_batch=8),
        Way(trainer="trl", batches="packed", dtype="float32", micro_batch=1),
        Way(trainer="trl", batches="flattened", dtype="autocast", micro_batch=8),
        Way(trainer="lorac", batches="padded", dtype="float32", micro_batch=0),
    ]
    runs = {
        ways[0].name: [run(10, 100)],
        ways[1].name: [run(19, 400), run(21, 400), run(20, 400)],
        ways[2].name: [run(99, 100)],
        ways[3].name: [run(98, 100)],
        ways[4].name: [run(30, 200)],
    }
    found = report.figures(SETTING, ways, runs, [], threads=2, arguments="--rounds 3")
    (ratio,) = found["ratios"]
    assert ratio["against"] == ways[1].name
    assert ratio["speed"] == pytest.approx(1.5)
    assert ratio["memory"] == pytest.approx(0.5)
    page = report.page(found)
    assert "1.50× as fast" in page
    assert "20.0 (19.0-21.0)" in page


def test_on_a_shared_core_one_thread_is_compared_by_its_own_seconds() -> None:
    ways = [
        WAY,
        Way(trainer="litgpt", batches="padded", dtype="float32", micro_batch=1),
        Way(trainer="lorac", batches="padded", dtype="float32", micro_batch=0),
    ]
    runs = {
        ways[0].name: [run(10, 100, wall=9)],
        ways[1].name: [run(20, 100, wall=5)],
        ways[2].name: [run(30, 100, wall=4)],
    }
    (shared,) = report.figures(SETTING, ways, runs, [], threads=1, arguments="")["ratios"]
    assert (shared["against"], shared["speed"]) == (ways[1].name, pytest.approx(1.5))
    (wall,) = report.figures(SETTING, ways, runs, [], threads=2, arguments="")["ratios"]
    assert (wall["against"], wall["speed"]) == (ways[0].name, pytest.approx(4 / 9))


def test_a_way_that_failed_is_shown_as_failed() -> None:
    found = report.figures(SETTING, [WAY], {WAY.name: []}, [{"name": "other", "failed": True}], 2, "")
    assert report.page(found).count("failed") == 2
