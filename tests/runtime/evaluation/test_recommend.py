"""Which weight is recommended, on rows made by hand."""

from __future__ import annotations

from pathlib import Path

import attrs

from runtime.evaluation import recommend
from runtime.evaluation.__main__ import warnings
from runtime.evaluation.results import Figure, Picture, Recited, Row
from tests.runtime.plans import tiny_plan

LEVELS = {0.6: 0.2, 0.8: 0.5, 1.0: 0.5}
"""How well each weight's pictures do: 0.8 and 1.0 alike."""


def row(weight: float, level: float, copies: int = 0) -> Row:
    pictures = tuple(
        Picture(
            file="",
            prompt=f"{number}",
            seed=number,
            similarity=level + 0.01 * ((number * round(10 * weight)) % 5),
            closeness=level,
            nearest=0.5,
            nearest_file="",
            is_copy=number < copies,
        )
        for number in range(12)
    )
    return Row(step=10, weight=weight, pictures=pictures)


def test_the_least_weight_that_does_as_well_as_the_best_is_recommended() -> None:
    assert recommend.weight([row(*pair) for pair in LEVELS.items()], 0.7) == (0.8, recommend.BY_PICTURES)


def test_a_weight_whose_pictures_are_copies_is_left_out() -> None:
    rows = [row(0.6, 0.2), row(0.8, 0.9, copies=12)]

    assert recommend.weight(rows, 0.7) == (0.6, recommend.BY_PICTURES + recommend.NOT_COPIED)


def test_where_every_weight_copies_the_best_is_recommended_and_it_is_said() -> None:
    rows = [row(0.6, 0.2, copies=12), row(0.8, 0.9, copies=12)]

    assert recommend.weight(rows, 0.7) == (0.8, recommend.BY_PICTURES + recommend.ALL_COPY)


def test_without_a_judge_the_held_out_loss_decides_and_without_that_the_plan() -> None:
    losses = {0.6: 2.0, 0.8: 1.0, 1.0: 3.0}
    rows = [
        Row(step=1, weight=weight, loss=Figure(mean=mean, low=mean, high=mean, count=3))
        for weight, mean in losses.items()
    ]

    assert recommend.weight(rows, 0.7) == (0.8, recommend.BY_LOSS)
    assert recommend.weight([Row(step=1, weight=0.6)], 0.7) == (0.7, recommend.PLANNED)


def test_copies_by_the_exported_checkpoint_are_warned_of(tiny_base: Path, tiny_data: Path) -> None:
    of = tiny_plan(tiny_base, tiny_data, held_out=1 / 3)
    rows = [row(0.6, 0.2), row(0.8, 0.2, copies=9)]

    few, memorised = warnings(of, True, rows, 10)

    assert few == "few: the held-out loss, and what is chosen by it, rests on 2 pictures"
    assert memorised.startswith("memorised: at weight 0.8, 9 of 12 pictures")


def test_captions_that_give_their_own_picture_back_are_copies_where_held_out_ones_do_not(
    tiny_base: Path, tiny_data: Path
) -> None:
    def recited(nearness: float, trained: bool) -> Recited:
        return Recited(file="", caption="", own_file="", nearness=nearness, trained=trained)

    held = tuple(recited(0.8 - place / 100, False) for place in range(8))
    learnt = attrs.evolve(row(0.8, 0.2), recited=(*held, *(recited(0.9, True) for _ in range(8))))
    alike = attrs.evolve(row(0.8, 0.2), recited=(*held, *(recited(0.795, True) for _ in range(8))))
    of = tiny_plan(tiny_base, tiny_data, held_out=1 / 3)

    assert recommend.signs(learnt) == [
        "8 of 8 captions that were trained on give their own picture back, nearer than any of 8 held-out captions does"
    ]
    assert not recommend.copies(alike)
    assert warnings(of, True, [learnt], 10)[1].startswith("memorised: at weight 0.8, 8 of 8 captions")


def test_copies_by_another_checkpoint_are_told_with_the_exported_one_that_is_clear_of_them(
    tiny_base: Path, tiny_data: Path
) -> None:
    of = tiny_plan(tiny_base, tiny_data, held_out=1 / 3)
    rows = [attrs.evolve(row(0.8, 0.2, copies), step=step) for step, copies in ((5, 0), (10, 9), (15, 12))]

    _, memorised = warnings(of, True, rows, 5)

    assert memorised.startswith("memorised by step 10: at weight 0.8, 9 of 12 pictures")
    assert memorised.endswith("step 5, which is exported, is clear of it")
    assert len(warnings(of, True, rows[:1], 5)) == 1
