"""A sweep: each value's run once, one table and one contact sheet at the end; what stops it and what does not."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from lorac import figures, launch, sweep
from lorac.halving import Contender
from lorac.sweep import Ended, Job
from runtime.errors import Interrupted, LoracError
from tests.lorac.calling import call
from tests.lorac.runs import job, write_run

SPEC = """
from lorac import Experiment, Fit, Images, LoRA, Samples, Train
experiment = Experiment(
    name="tiny", base={base!r}, data=Images({data!r}, resolution=64, buckets=False),
    adapter=LoRA(rank=2), train=Train(effective_batch=1, steps=1), fit=Fit(card="cpu", threads=1),
    samples=Samples(prompts=("noise",), steps=1),
)
"""


def test_two_values_make_two_runs_a_table_and_a_sheet_and_are_not_run_again(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(SPEC.format(base=str(tiny_base), data=str(tiny_data)))
    arguments = ("sweep", "tiny.py", "--set", "train.learning_rate=1e-3,2e-3", "--json")
    first = call(*arguments)
    table = json.loads(first.out)
    assert [row["state"] for row in table["rows"]] == ["done", "done"]
    assert [row["settings"] for row in table["rows"]] == [
        {"train.learning_rate": 1e-3},
        {"train.learning_rate": 2e-3},
    ]
    assert table["best"] in {row["name"] for row in table["rows"]}
    assert json.loads(Path("output/tiny-sweep/table.json").read_text()) == table
    assert Image.open("output/tiny-sweep/sheet.png").width > 300
    monkeypatch.setattr(launch, "complete", lambda path, **_: pytest.fail(f"{path} was run again"))
    assert call(*arguments).out == first.out


def test_a_run_that_diverges_is_a_row_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(tmp_path, "a"), job(tmp_path, "b")]
    ran: list[str] = []

    def complete(path: Path, **_: object) -> int:
        ran.append(path.parent.name)
        if path.parent.name == "a":
            return 6
        write_run(jobs[1].written.plan, [0.5] * 40)
        return 0

    monkeypatch.setattr(launch, "complete", complete)
    rows = sweep.sweep(jobs, tmp_path / "sweep")
    assert [row.state for row in rows] == ["diverged", "done"]
    assert figures.best(rows) is rows[1]
    assert [row.state for row in sweep.sweep(jobs, tmp_path / "sweep")] == ["diverged", "done"]
    assert ran == ["a", "b"]


def test_any_other_end_stops_the_sweep_with_its_code_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(tmp_path, "a"), job(tmp_path, "b")]
    write_run(jobs[0].written.plan, [0.5] * 40)
    monkeypatch.setattr(launch, "complete", lambda path, **_: 130)
    with pytest.raises(LoracError) as caught:
        sweep.sweep(jobs, tmp_path / "sweep")
    assert caught.value.exit_code == 130
    assert caught.value.lines() == [
        "error: b: ended with exit code 130; runs done: 1 of 2",
        "hint: run the same command again to go on",
    ]


def executed(*ends: tuple[int, bool] | type[BaseException]) -> sweep.Executor:
    """An executor whose jobs end so; or that is interrupted."""

    def executor(
        jobs: Sequence[Job], among: Sequence[Contender], tell: sweep.Tell
    ) -> Generator[Ended, None, None]:
        for one, end in zip(jobs, ends, strict=True):
            if isinstance(end, type):
                raise end
            yield Ended(one, *end)

    return executor


def test_a_weak_run_that_was_stopped_is_a_row_and_goes_on_once_weak_ones_are_not_stopped(
    tmp_path: Path,
) -> None:
    jobs = [job(tmp_path, "a"), job(tmp_path, "b")]
    write_run(jobs[0].written.plan, [0.5] * 40)
    told: list[str] = []
    weak = executed((Interrupted.exit_code, True))
    rows = sweep.sweep(jobs, tmp_path / "sweep", weak, stops_weak=True, tell=told.append)
    assert [row.state for row in rows] == ["done", "stopped"]
    assert told == ["b: stopped; runs done: 2 of 2"]
    rows = sweep.sweep(jobs, tmp_path / "sweep", executed(), stops_weak=True)
    assert [row.state for row in rows] == ["done", "stopped"]
    write_run(jobs[1].written.plan, [0.4] * 40)
    rows = sweep.sweep(jobs, tmp_path / "sweep", executed())
    assert [row.state for row in rows] == ["done", "done"]


def test_ctrl_c_closes_the_executor_and_says_how_to_go_on(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a"), job(tmp_path, "b")]
    with pytest.raises(LoracError) as caught:
        sweep.sweep(jobs, tmp_path / "sweep", executed((6, False), KeyboardInterrupt))
    assert caught.value.exit_code == 130
    assert caught.value.lines() == [
        "error: interrupted; runs done: 1 of 2",
        "hint: run the same command again to go on",
    ]
