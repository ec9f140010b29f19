"""The wordings of a caption: the same each time, whole, with what is kept in its place."""

from __future__ import annotations

import numpy as np

from runtime import plan
from runtime.data import captions, order

CAPTION = "zwx style, a cat, blue sky,  grass , sun, moon"
TAGS = ["zwx style", "a cat", "blue sky", "grass", "sun", "moon"]


def images(**given) -> plan.Images:
    item = plan.Item(
        path="a.png", sha256="", width=64, height=64, caption=CAPTION, repeats=2000, bucket=(64, 64)
    )
    plain = {"flip": False, "caption_dropout": 0.0}
    return plan.Images(digest="", items=(item,), expected=2000, resolution=64, **{**plain, **given})


def test_a_caption_with_one_wording_is_as_it_was_written() -> None:
    assert captions.wording(CAPTION, images(), 0) == CAPTION
    assert captions.wordings(images()) == [CAPTION]


def test_shuffling_keeps_the_first_tags_and_loses_none() -> None:
    data = images(caption_variants=12, shuffle_tags=True, keep_tags=2)
    found = [captions.wording(CAPTION, data, number).split(", ") for number in range(12)]

    assert all(tags[:2] == TAGS[:2] and sorted(tags) == sorted(TAGS) for tags in found)
    assert len({tuple(tags) for tags in found}) > 6
    assert captions.wordings(data) == list(dict.fromkeys(", ".join(tags) for tags in found))


def test_wordings_are_pinned_against_drift() -> None:
    """Changed wordings break resuming: change them only with the plan's format version."""
    data = images(caption_variants=8, shuffle_tags=True, keep_tags=1, tag_dropout=0.3)

    assert [captions.wording(CAPTION, data, number) for number in range(2)] == [
        "zwx style, moon, a cat, blue sky",
        "zwx style, a cat, sun, blue sky, moon",
    ]


def test_tags_are_left_out_at_their_rate_and_alike_whether_shuffled_or_not() -> None:
    dropped = images(caption_variants=1000, keep_tags=1, tag_dropout=0.3)
    both = images(caption_variants=1000, keep_tags=1, tag_dropout=0.3, shuffle_tags=True)
    left = [captions.wording(CAPTION, dropped, number).split(", ") for number in range(1000)]

    assert all(tags[0] == TAGS[0] and tags == [tag for tag in TAGS if tag in tags] for tags in left)
    assert abs(np.mean([len(tags) - 1 for tags in left]) / 5 - 0.7) < 0.03
    shuffled = [captions.wording(CAPTION, both, number).split(", ") for number in range(1000)]
    assert [sorted(tags) for tags in shuffled] == [sorted(tags) for tags in left]


def test_a_sample_draws_its_wording_and_moves_nothing_else() -> None:
    plain = order.Order(images(flip=True, caption_dropout=0.5), 3, 2000).step(0)
    worded = order.Order(images(flip=True, caption_dropout=0.5, caption_variants=4), 3, 2000).step(0)

    counts = np.bincount([sample.variant for sample in worded])
    assert len(counts) == 4 and counts.min() > 400
    assert [(s.key, s.flip, s.drop_caption) for s in plain] == [
        (s.key, s.flip, s.drop_caption) for s in worded
    ]
    assert not any(sample.variant for sample in plain)
