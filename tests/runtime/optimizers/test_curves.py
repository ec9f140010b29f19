"""The learning rate's curve: transformers' own where it has it, floors, shares; the same bytes whatever stops a run."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from runtime import plan
from runtime.errors import Interrupted, PlanError
from runtime.optimizers import factor
from tests.runtime.plans import carry_out, tiny_plan

STEPS = 40


def schedule(name: plan.Curve, warmup: int = 0, **numbers: Any) -> plan.Schedule:
    return plan.Schedule(name=name, warmup_steps=warmup, power=numbers.pop("power", 1.0), **numbers)


def of_transformers(name: str, warmup: int, **numbers: Any) -> list[float]:
    """The rates that transformers' Trainer would train with, in the highest one."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(name, optimizer, warmup, STEPS, scheduler_specific_kwargs=numbers)
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize(
    ("ours", "theirs", "numbers"),
    [
        (schedule("constant"), "constant_with_warmup", {}),
        (schedule("linear"), "linear", {}),
        (schedule("cosine"), "cosine", {}),
        (schedule("polynomial", power=2.0), "polynomial", {"power": 2.0, "lr_end": 0.0}),
        (schedule("cosine_with_restarts", cycles=3), "cosine_with_restarts", {"num_cycles": 3}),
        (schedule("warmup_stable_decay", decay_steps=8), "warmup_stable_decay", {"num_decay_steps": 8}),
        (schedule("cosine", min_ratio=0.1), "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        (
            schedule("warmup_stable_decay", decay_steps=8, min_ratio=0.2),
            "warmup_stable_decay",
            {"num_decay_steps": 8, "min_lr_ratio": 0.2},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_after_the_warm_up_a_curve_is_that_of_transformers(
    ours: plan.Schedule, theirs: str, numbers: dict[str, Any], warmup: int
) -> None:
    of = schedule(
        ours.name,
        warmup,
        power=ours.power,
        cycles=ours.cycles,
        decay_steps=ours.decay_steps,
        min_ratio=ours.min_ratio,
    )
    expected = of_transformers(theirs, warmup, **numbers)

    assert [factor(of, step, STEPS) for step in range(warmup, STEPS)] == pytest.approx(
        expected[warmup:], abs=1e-12
    )


def onetrainer(progress: float) -> float:
    """REX as OneTrainer and axolotl have it (OneTrainer at 23df383, modules/util/lr_scheduler_util.py)."""
    return (1 - progress) / (0.1 + 0.9 * (1 - progress))


def test_rex_is_that_of_onetrainer_and_axolotl() -> None:
    found = [factor(schedule("rex", 4), 4 + step, 24) for step in range(20)]

    assert found == pytest.approx([onetrainer(step / 20) for step in range(20)])
    assert found[0] == 1 and found[10] > 0.9 and found[19] == pytest.approx(0.344827586)


CURVES = st.builds(
    plan.Schedule,
    name=st.sampled_from(
        ["constant", "linear", "cosine", "polynomial", "cosine_with_restarts", "warmup_stable_decay", "rex"]
    ),
    warmup_steps=st.integers(0, 60),
    power=st.floats(0.1, 10),
    cycles=st.integers(1, 50),
    decay_steps=st.integers(1, 60),
    min_ratio=st.floats(0, 1),
)


@given(CURVES, st.integers(1, 100))
def test_a_factor_is_never_above_the_rate_nor_below_its_floor(of: plan.Schedule, steps: int) -> None:
    for step in range(steps):
        found = factor(of, step, steps)
        floor = of.min_ratio if step >= of.warmup_steps else 0
        assert floor - 1e-12 <= found <= 1 + 1e-12


def test_a_run_that_is_stopped_goes_on_along_its_curve_to_the_same_bytes(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = schedule("cosine_with_restarts", 1, cycles=2, min_ratio=0.1)
    made = tiny_plan(tiny_base, tiny_data, schedule=of)

    def stop(at: int) -> None:
        if at == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        carry_out(made, tmp_path / "stopped", stop)

    through = carry_out(made, tmp_path / "through").read_bytes()
    assert carry_out(made, tmp_path / "stopped").read_bytes() == through


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (schedule("cosine_with_restarts", cycles=0), "train.schedule.cycles must be at least 1, got 0"),
        (schedule("rex", min_ratio=1.5), "train.schedule.min_ratio must be between 0 and 1, got 1.5"),
    ],
)
def test_a_plan_with_numbers_out_of_range_is_refused(
    of: plan.Schedule, says: str, tiny_base: Path, tiny_data: Path
) -> None:
    with pytest.raises(PlanError) as refused:
        plan.loads(plan.dumps(tiny_plan(tiny_base, tiny_data, schedule=of)))

    assert [problem.what for problem in refused.value.problems] == [says]
