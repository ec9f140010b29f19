"""The picture benchmark asks both trainers for the same, and compares what can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from lorac.load import load
from tests.bench import plot
from tests.bench.images import lorac_run, pictures, report
from tests.bench.images.__main__ import settings
from tests.bench.images.setting import Setting, Task, Way

WAY = Way(trainer="diffusers", dtype="float32", micro_batch=8)
OURS = Way(trainer="lorac", dtype="float32", micro_batch=0)
SETTING = settings()["emoji"]


def run(loss: float, *, seconds: float, memory: int) -> dict[str, Any]:
    """A run of two checkpoints, whose second has the loss."""
    return {
        **dict.fromkeys(report.FIGURES, 1.0),
        "name": "",
        "samples_per_second": 10 / seconds,
        "peak_bytes": memory,
        "held_out_loss": loss,
        "curve": [
            {"step": 5, "seconds": seconds / 2, "cpu_seconds": seconds / 4, "loss": loss + 0.1},
            {"step": 10, "seconds": seconds, "cpu_seconds": seconds / 2, "loss": loss},
        ],
    }


@pytest.fixture
def found() -> dict[str, Any]:
    runs = {
        WAY.name: [run(0.5, seconds=20, memory=200), run(0.6, seconds=22, memory=200)],
        OURS.name: [run(0.45, seconds=10, memory=100), run(0.5, seconds=12, memory=100)],
    }
    one = report.experiment(SETTING, [WAY, OURS], runs, [])
    return report.figures([one], 1, "--rounds 2")


def test_time_to_a_loss_is_taken_where_every_run_comes(found: dict[str, Any]) -> None:
    (one,) = found["experiments"]
    assert one["loss_to_reach"] == 0.6
    assert [run[report.REACHED] for way in one["ways"] for run in way["all"]] == [10, 22, 5, 6]
    assert one["ratios"]["peak_bytes"] == 0.5
    assert one["ratios"][report.REACHED] == pytest.approx(5.5 / 16)


def test_page_and_chart_have_each_trainer(found: dict[str, Any]) -> None:
    assert report.page(found).count(f"| {OURS.name} | 2 |") == 1
    drawn = ElementTree.fromstring(plot.svg(report.panels(found), report.TITLE))
    names = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert names.count(WAY.name) == names.count(OURS.name) == len(report.SHOWN)


def test_what_has_no_held_out_pictures_has_no_loss_to_reach() -> None:
    plain = {**run(0.5, seconds=1, memory=1), "held_out_loss": None, "curve": []}
    one = report.experiment(SETTING, [WAY, OURS], {WAY.name: [plain], OURS.name: [plain]}, [])
    assert one["loss_to_reach"] is None
    assert report.REACHED not in one["ratios"]


def test_lorac_is_asked_for_what_the_recipe_does(tmp_path: Path) -> None:
    (tmp_path / "spec.py").write_text(lorac_run.spec(Task(setting=SETTING, way=OURS)))
    (made,) = load(tmp_path / "spec.py")
    train, adapter = made.experiment.train, made.experiment.adapter
    assert (train.effective_batch, train.steps, train.scheduler) == (
        SETTING.batch,
        SETTING.steps,
        "constant",
    )
    assert (adapter.rank, adapter.targets, made.experiment.data.flip) == (SETTING.rank, "qkvo", True)


def test_pictures_are_mirrored_whole() -> None:
    folder = Path(SETTING.train)
    name = next(iter(pictures.captions(folder)))
    plain, mirrored = (pictures.pixels(folder / name, 64, flip) for flip in (False, True))
    assert plain.shape == (3, 64, 64) and -1 <= plain.min() < plain.max() <= 1
    assert torch.equal(mirrored, plain.flip(-1)) and not torch.equal(mirrored, plain)


def test_a_task_survives_the_command_line() -> None:
    task = Task(setting=SETTING, way=WAY)
    assert isinstance(task.setting, Setting) and Task.loads(task.dumps()) == task
