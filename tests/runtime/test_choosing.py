"""The chosen checkpoint is what is exported, whatever happens on the way. The losses are made by hand."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runtime import evaluate, plan
from runtime.errors import Interrupted
from runtime.evaluate import Losses
from tests.runtime.plans import carry_out, tiny_plan

OVERFITTING = {0: 9.0, 2: 3.0, 4: 5.0, 6: 7.0}
"""Held-out loss after a step: best after two."""

Run = Callable[..., Path]


@pytest.fixture
def run(tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Carry a tiny plan out that measures `OVERFITTING`, stopped at a step and carried on where that is given."""

    def carried(name: str, stop: int | None = None, **changes: Any) -> Path:
        of = tiny_plan(
            tiny_base, tiny_data, held_out=1 / 3, keep_checkpoints=1, every=2, dropout=0.1, **changes
        )
        now = [0]

        def measured(*_: Any) -> Losses:
            return Losses(sums=(OVERFITTING[now[0]], OVERFITTING[now[0]] + 1), weights=(1, 1))

        def at(step: int, stops: bool) -> None:
            now[0] = step + 1
            if stops and step == stop:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(evaluate, "held_out", measured)
        if stop is not None:
            with pytest.raises(Interrupted):
                carry_out(of, tmp_path / name, lambda step: at(step, True))
        return carry_out(of, tmp_path / name, lambda step: at(step, False))

    return carried


def manifest(file: Path) -> Any:
    return json.loads((file.parent / "tiny.lorac.json").read_text(encoding="utf-8"))


def test_the_best_checkpoint_is_kept_and_exported_and_the_manifest_says_why(run: Run) -> None:
    file = run("best", choose="best")
    kept = sorted(path.name for path in (file.parent / "checkpoints").iterdir())
    exported, at_best = (
        load_file(file),
        load_file(file.parent / "checkpoints/step-000002/tiny-000002.safetensors"),
    )
    said = manifest(file)["run"]

    assert kept == ["step-000002", "step-000006"]
    assert (
        all(torch.equal(exported[name], at_best[name]) for name in at_best)
        and exported.keys() == at_best.keys()
    )
    assert said["steps"] == 2
    assert said["choice"] | {"rule": ""} == {
        "rule": "",
        "step": 2,
        "loss": 3.5,
        "low": said["choice"]["low"],
        "high": said["choice"]["high"],
        "lowest_step": 2,
        "gap": 0.0,
        "error": 0.0,
        "trained": 6,
        "stopped": "",
    }
    assert "one standard error" in said["choice"]["rule"]


def test_the_last_checkpoint_is_exported_where_the_plan_says_so(run: Run) -> None:
    file = run("last", choose="last")

    assert manifest(file)["run"]["steps"] == 6
    assert manifest(file)["run"]["choice"] is None


@pytest.mark.parametrize("stop", [1, 4])
def test_a_run_that_was_stopped_chooses_the_same_bytes(run: Run, stop: int) -> None:
    assert run("stopped", stop, choose="best").read_bytes() == run("through", choose="best").read_bytes()


def test_a_run_ends_when_its_patience_does(run: Run) -> None:
    file = run("patient", choose="best", patience=1)
    said = manifest(file)["run"]["choice"]

    assert (said["step"], said["trained"]) == (2, 4)
    assert said["stopped"] == "no lower held-out loss in 1 checkpoints after step 2"


def test_a_run_whose_chosen_checkpoint_is_damaged_trains_again_from_before_it(run: Run) -> None:
    through = run("through", choose="best")
    again = run("damaged", choose="best")
    for gone in (again, again.parent / "tiny.lorac.json"):
        gone.unlink()
    damaged = again.parent / "checkpoints/step-000002/adapter.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")

    assert run("damaged", choose="best").read_bytes() == through.read_bytes()


def test_what_is_measured_of_pictures_is_in_the_metrics(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of: plan.Plan = tiny_plan(tiny_base, tiny_data, held_out=1 / 3, choose="best", every=2)
    file = carry_out(of, tmp_path)

    lines = [json.loads(line) for line in (file.parent / "logs/metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "held_out/loss" in line}
    assert sorted(found) == [0, 2, 4, 6]
    assert all(
        line["held_out/low"] <= line["held_out/loss"] <= line["held_out/high"] for line in found.values()
    )
    assert found[6]["held_out/loss"] != found[0]["held_out/loss"]
    assert manifest(file)["run"]["choice"]["loss"] == found[manifest(file)["run"]["steps"]]["held_out/loss"]
