"""Pictures that are held out: never trained on, and measured in the same way each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch

from runtime import media, plan
from runtime import run as running
from runtime.data.levels import LEVELS
from runtime.families import sd1
from runtime.media.pictures import Pictures
from tests.runtime.plans import tiny_plan, where

Prepare = Callable[..., Pictures]


@pytest.fixture
def prepare(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Prepare:
    """The feed of a tiny plan that holds a third out."""

    def made(**changes: object) -> Pictures:
        of = tiny_plan(tiny_base, tiny_data, held_out=1 / 3, **changes)
        places = where(of, tmp_path / "run")
        modules, tokenizers = running.load(sd1, of.program, places, torch.device("cpu"))  # type: ignore[arg-type]
        medium = media.medium(of.program.data)
        feed = medium.prepare(sd1, modules, tokenizers, of.program, places, torch.device("cpu"))
        assert isinstance(feed, Pictures)
        return feed

    return made


def rows(feed: Pictures, micro_batch: int) -> list[tuple[int, int, int]]:
    """Of each row its picture, its time, and the sum of its noise's bits."""
    return [
        (number, int(batch["timestep"][at]), int(batch["noise"][at].view(torch.int32).long().sum()))
        for batch, those in feed.held_out(micro_batch)
        for at, (number, _) in enumerate(those)
    ]


def test_pictures_are_measured_at_the_same_even_times_and_noise_whatever_the_seed_and_the_batch(
    prepare: Prepare,
) -> None:
    found = rows(prepare(), 4)
    times = [[time for number, time, _ in found if number == picture] for picture in range(2)]

    assert rows(prepare(seed=9), 3) == found
    assert len({noise for _, _, noise in found}) == len(found) == 2 * LEVELS
    for rising in times:
        # Each within its eighth of SD's 1000 steps, give or take what 64 uniform draws leave open.
        middles = [1000 * (level + 0.5) / LEVELS for level in range(LEVELS)]
        assert rising == sorted(rising)
        assert all(abs(time - middle) < 160 for time, middle in zip(rising, middles, strict=True))


def test_what_is_held_out_reaches_no_training_step(prepare: Prepare) -> None:
    feed = prepare(flip=True)
    held = {item.path for item, _ in feed.measured}

    trained = {name for step in range(6) for name in feed.names(feed.step(step))}

    assert len(held) == 2
    assert trained | held == {f"{number}.png" for number in range(6)}
    assert not trained & held


def test_a_plan_that_trains_on_what_it_holds_out_is_refused(tiny_base: Path, tiny_data: Path) -> None:
    of = tiny_plan(tiny_base, tiny_data, held_out=1 / 3)
    data = of.program.data
    assert isinstance(data, plan.Images)
    leaking = attrs.evolve(data, items=(*data.items, data.held_items[0]))
    made = plan.make(attrs.evolve(of.program, data=leaking), of.outputs, of.estimate)

    with pytest.raises(plan.PlanError, match="1 pictures that are trained on"):
        plan.loads(plan.dumps(made))
