"""What pictures and answers are measured by, on ones made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from runtime.evaluation import figures
from runtime.evaluation.figures import Vectors
from runtime.evaluation.judge import by_pixels


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cells(seed: int) -> Image.Image:
    """Sixteen coloured squares."""
    return noise(seed).resize((4, 4)).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture
def training() -> Vectors:
    return by_pixels([cells(number) for number in range(8)])


def test_a_copy_of_a_training_picture_is_above_the_threshold_and_another_picture_is_not(
    training: Vectors,
) -> None:
    value, pictures = figures.threshold(training, np.arange(8), by_pixels([cells(20), cells(21)]))
    copy, blurred, other = cells(3), cells(3).resize((48, 48)).resize((64, 64)), cells(30)

    near, at = figures.nearest(by_pixels([copy, blurred, other]), training)

    assert pictures == 10
    assert [one > value for one in near] == [True, True, False]
    assert at[:2] == [3, 3]


def test_the_mirrored_picture_does_not_count_as_another_one(training: Vectors) -> None:
    mirrored = by_pixels([cells(number).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for number in range(8)])
    both, shows = np.concatenate([training, mirrored]), np.arange(16) % 8
    symmetric = np.concatenate([training, training])

    assert figures.threshold(both, shows, training[:0])[0] < 0.99
    assert figures.threshold(symmetric, shows, training[:0]) == figures.threshold(
        training, np.arange(8), training[:0]
    )


def test_of_a_single_training_picture_only_the_very_same_is_a_copy() -> None:
    alone = by_pixels([cells(1)])
    value, pictures = figures.threshold(alone, np.arange(1), alone[:0])

    assert (value < figures.nearest(alone, alone)[0][0], value > 0.999, pictures) == (True, True, 0)


@pytest.mark.parametrize(("copies", "told"), [(0, False), (1, False), (3, False), (4, True), (12, True)])
def test_so_many_copies_of_twelve_are_told_that_are_no_accident(copies: int, told: bool) -> None:
    assert figures.is_no_accident(copies, 12) == told


@pytest.mark.parametrize(
    ("trained", "held_out", "first", "told"),
    [
        ([0.9] * 8, [0.8] * 8, 8, True),
        ([0.9] * 6 + [0.5] * 2, [0.8] + [0.1] * 7, 6, True),
        ([0.9] * 5 + [0.5] * 3, [0.8] + [0.1] * 7, 5, False),  # one in 78 by chance
        ([0.7] * 8, [0.8] + [0.1] * 7, 0, False),
        ([0.9] * 3, [0.8] * 3, 3, False),  # too few to tell
        ([0.9] * 8, [], 0, False),
    ],
)
def test_captions_that_were_trained_on_are_by_heart_where_they_lie_before_those_held_out(
    trained: list[float], held_out: list[float], first: int, told: bool
) -> None:
    assert figures.by_heart(trained, held_out) == first
    assert figures.is_by_heart(trained, held_out) == told


def test_pictures_that_are_alike_have_no_diversity() -> None:
    alike, apart = by_pixels([cells(1)] * 3), by_pixels([cells(1), cells(2), cells(3)])

    assert figures.diversity(alike) == pytest.approx([0.0] * 3, abs=1e-6)
    assert min(figures.diversity(apart)) > 0.2
    assert figures.diversity(alike[:1]) == []


def test_closeness_is_the_mean_cosine_with_the_training_pictures() -> None:
    first, second = np.eye(2, dtype=np.float32)

    assert figures.closeness(first[None], np.stack([first, second, -first])) == pytest.approx([0.0])


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ("one two three", 0.0), ("a b c d e f", 0.0), ("a b c d a b c d", 0.2), ("no " * 9, 5 / 6)],
)
def test_repetition_is_the_share_of_four_words_that_were_there_before(text: str, share: float) -> None:
    assert figures.repetition(text) == pytest.approx(share)
