"""Steps that go wrong are left out, then gone back from, then stopped at; and a run that is stopped does it again."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from runtime import checkpoint, divergence, evaluate, plan, train
from runtime.errors import DivergedError, Interrupted
from runtime.evaluate import Losses
from runtime.step import Trainee, gradients
from tests.faults import fault
from tests.runtime.plans import carry_out, tiny_plan

TOO_FAR = 0.025
"""AdamW moves a weight of B by its rate: two and a half steps at the plan's peak, never at a tenth of it."""


def spoilt(monkeypatch: pytest.MonkeyPatch, when: Callable[[Trainee], bool]) -> None:
    """Have the loss overflow where the weights say so, as a real one does."""

    def overflowing(of: Trainee, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, norm = gradients(of, *rest)  # type: ignore[arg-type]
        return loss * math.nan if when(of) else loss, norm

    monkeypatch.setattr(train, "gradients", overflowing)


def is_too_far(of: Trainee) -> bool:
    return (
        max(float(m.detach().abs().max()) for name, m in of.masters.items() if name.endswith(".B")) > TOO_FAR
    )


@pytest.fixture(scope="module")
def of(tiny_base: Path, tiny_data: Path) -> plan.Plan:
    return tiny_plan(tiny_base, tiny_data, steps=8)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, is_too_far)


@pytest.fixture(scope="module")
def went_back(of: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that went back once, and that nothing else disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        spoilt(patch, is_too_far)
        return carry_out(of, tmp_path_factory.mktemp("back"))


def stop_at(call: int) -> Callable[[int], None]:
    """Ask for the end in the step that is taken as the `call`th, steps taken twice counted twice."""
    left = [call]

    def stop(step: int) -> None:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGINT)

    return stop


@fault(
    "three steps of twenty whose loss is not finite",
    "once, back to the last good checkpoint, and on at a tenth of the rate; recorded in the manifest",
    code=0,
)
def test_three_wrong_steps_go_back_to_a_checkpoint_that_a_good_step_followed_at_a_tenth_of_the_rate(
    of: plan.Plan, went_back: Path
) -> None:
    folder = went_back.parent
    notes = json.loads((folder / "tiny.lorac.json").read_text())["run"]["notes"]
    rows = [json.loads(line, parse_constant=float) for line in (folder / "logs/metrics.jsonl").open()]
    _, state = checkpoint.newest(folder / "checkpoints", of.plan_hash) or pytest.fail("no checkpoint")

    # The checkpoint after step 4 was written, and step 5 was wrong already: it is not gone back to.
    assert notes == [
        "3 of the last 20 steps went wrong (up to step 7): gone back to step-000002;"
        " from step 3 on, the learning rate is 0.1 of the plan's"
    ]
    assert state.lowered_from == 2 and state.skipped == ()
    assert [row["step"] for row in rows if "lr" in row] == list(range(1, 9))
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    assert rates[2] == pytest.approx(1e-2 * 2 / 3)
    assert rates[3] == pytest.approx(1e-3)


@pytest.mark.parametrize("call", [5, 6, 7, 9])
@fault(
    "a stop before, while or after a run goes back",
    "the same bytes",
    code=130,
)
def test_a_run_stopped_before_or_after_it_goes_back_ends_in_the_same_bytes(
    of: plan.Plan, went_back: Path, far: None, tmp_path: Path, call: int
) -> None:
    with pytest.raises(Interrupted):
        carry_out(of, tmp_path, stop_at(call))

    assert carry_out(of, tmp_path).read_bytes() == went_back.read_bytes()


def test_where_that_checkpoint_is_damaged_the_one_before_leads_to_the_same_bytes(
    tiny_base: Path, tiny_data: Path, far: None, tmp_path: Path
) -> None:
    of = tiny_plan(tiny_base, tiny_data, steps=8, save_steps=1, keep_checkpoints=8)
    taken: list[int] = []

    def damage(step: int) -> None:
        taken.append(step)
        if taken[-1:] == [6] and taken.count(6) == 1:
            file = tmp_path / "damaged" / "tiny" / "checkpoints" / "step-000003" / "adapter.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"x")

    whole = carry_out(of, tmp_path / "whole")
    assert carry_out(of, tmp_path / "damaged", damage).read_bytes() == whole.read_bytes()
    assert taken == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 7]


MEASURED = {0: [9.0], 2: [5.0], 4: [1.0, 4.0], 6: [2.0, 6.0], 8: [7.0]}
"""Held-out losses after a step, by turns: what was lowest at first was gone back from."""


@pytest.mark.parametrize("stop", [None, 6, 9])
def test_what_was_measured_before_going_back_chooses_nothing_and_tries_no_patience(
    tiny_base: Path,
    tiny_data: Path,
    far: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stop: int | None,
) -> None:
    of = tiny_plan(tiny_base, tiny_data, steps=8, held_out=1 / 3, every=2, choose="best", patience=3)
    taken: list[int] = []

    def measured(*_: object) -> Losses:
        step = taken[-1] + 1 if taken else 0
        loss = MEASURED[step][min(taken.count(step - 1), len(MEASURED[step])) - 1]
        return Losses(sums=(loss, loss + 1), weights=(1, 1))

    def take(step: int) -> None:
        taken.append(step)
        if len(taken) == stop:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(evaluate, "held_out", measured)
    if stop is not None:
        with pytest.raises(Interrupted):
            carry_out(of, tmp_path, take)
    folder = carry_out(of, tmp_path, take).parent
    said = json.loads((folder / "tiny.lorac.json").read_text())["run"]

    assert taken == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 7]
    assert (said["choice"]["step"], said["choice"]["loss"], said["choice"]["stopped"]) == (4, 4.5, "")
    rows = [json.loads(line, parse_constant=float) for line in (folder / "logs/metrics.jsonl").open()]
    found = {row["step"]: row["held_out/loss"] for row in rows if "held_out/loss" in row}
    assert found == {0: 9.5, 2: 5.5, 4: 4.5, 6: 6.5, 8: 7.5}


@fault(
    "a loss that is not finite, in one step",
    "the step moves nothing and is counted, in the manifest too; through a stop to the same bytes",
    code=0,
)
def test_a_single_wrong_step_is_left_out_and_counted_through_a_stop(
    of: plan.Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [0]

    def tell(step: int, stops_in: int = -1) -> None:
        now[0] = step
        if step == stops_in:
            signal.raise_signal(signal.SIGINT)

    spoilt(monkeypatch, lambda of: now[0] == 3)
    through = carry_out(of, tmp_path / "through", tell)
    with pytest.raises(Interrupted):
        carry_out(of, tmp_path / "stopped", lambda step: tell(step, stops_in=5))
    stopped = carry_out(of, tmp_path / "stopped", tell)

    assert stopped.read_bytes() == through.read_bytes()
    for made in (through, stopped):
        notes = json.loads((made.parent / "tiny.lorac.json").read_text())["run"]["notes"]
        assert notes == ["left out because they went wrong: 1 of 8 steps (4)"]
    assert "step 4 is left out: loss is not finite (lr 9.3e-03, samples " in capfd.readouterr().out


@fault(
    "three such steps again, after going back",
    "it stops: the steps, their rates and samples, the last good checkpoint",
    code=6,
)
def test_a_rate_that_a_tenth_does_not_mend_stops_with_a_report(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = tiny_plan(tiny_base, tiny_data, learning_rate=1e30, max_grad_norm=0.0)

    with pytest.raises(DivergedError) as diverged:
        carry_out(of, tmp_path)

    *steps, stopped, hint = diverged.value.lines()
    assert diverged.value.exit_code == 6
    assert len(steps) == 3
    assert all("is not finite (lr " in line and ".png" in line for line in steps)
    assert stopped == (
        "error: training stopped: this is after going back to step 0, and 0.1 of the rate;"
        " no checkpoint after the first values is good"
    )
    assert hint == "hint: lower train.learning_rate, or look at these samples"
    names = [path.name for path in checkpoint.whole(tmp_path / "tiny" / "checkpoints")]
    assert "step-000000" in names


def test_a_run_too_short_to_go_back_is_no_success_if_no_step_was_good(
    tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoilt(monkeypatch, lambda of: True)

    with pytest.raises(DivergedError, match="no step moved anything"):
        carry_out(tiny_plan(tiny_base, tiny_data, steps=2), tmp_path)


@pytest.mark.parametrize(
    ("loss", "norm", "is_wrong"),
    [(3.9, 99.0, False), (99.0, 9.9, False), (4.1, 10.1, True), (math.inf, 1.0, True), (1.0, math.nan, True)],
)
@fault(
    "an explosion: the loss above 4 and the gradient's norm above 10 times its median of 100 steps",
    "as a loss that is not finite",
    code=0,
)
def test_an_explosion_is_of_the_loss_and_of_the_gradient(loss: float, norm: float, is_wrong: bool) -> None:
    # The medians are 1, whatever a few outliers are.
    before = (1.0,) * 18 + (50.0, 50.0)
    state = checkpoint.State(
        step=20, micro_batch=1, seconds=0.0, losses=before, norms=before, notes=(), started_at=""
    )

    assert bool(divergence.wrong(state, loss, norm)) is is_wrong


def test_nothing_explodes_before_there_is_something_to_hold_it_against() -> None:
    state = checkpoint.State(
        step=19, micro_batch=1, seconds=0.0, losses=(1.0,) * 19, norms=(1.0,) * 19, notes=(), started_at=""
    )

    assert divergence.wrong(state, 99.0, 99.0) == ""
