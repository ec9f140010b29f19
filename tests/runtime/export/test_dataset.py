"""Folders, buckets and tags as kohya's trainer gives them, without paths and without captions."""

from __future__ import annotations

from runtime.export import dataset
from tests.runtime.export import cases


def captions(*texts: str) -> tuple[dataset.Item, ...]:
    return cases.items((f"{n}.png", text, 1, (512, 512), (512, 512)) for n, text in enumerate(texts))


def test_folders_are_named_with_their_repeats() -> None:
    assert dataset.folders(cases.items(), "cyberpunk") == {
        "10_cat": {"n_repeats": 10, "img_count": 2},
        "1_cyberpunk": {"n_repeats": 1, "img_count": 1},
    }


def test_a_folder_is_named_by_its_last_part() -> None:
    items = cases.items([("a/b/3_dog/x.png", "a dog", 3, (512, 512), (512, 512))])

    assert list(dataset.folders(items, "cyberpunk")) == ["3_dog"]


def test_buckets_count_repeats_and_tell_the_mean_error() -> None:
    found = dataset.buckets(cases.items())

    assert found["buckets"] == {
        "0": {"resolution": [512, 512], "count": 20},
        "1": {"resolution": [640, 448], "count": 1},
    }
    assert (
        abs(found["mean_img_ar_error"] - (abs(600 / 610 - 1) + 0 + abs(1000 / 700 - 640 / 448)) / 3) < 1e-12
    )


def test_tags_are_counted_by_folder() -> None:
    assert dataset.tags(cases.items(), "cyberpunk") == {
        "10_cat": {"catstyle": 2, "a blue cat": 1, "a red cat": 1, "night": 1},
        "1_cyberpunk": {"a dog": 1, "catstyle": 1, "night": 1},
    }


def test_sentences_are_counted_by_word() -> None:
    found = dataset.tags(captions("A neon city at night in the rain", "a neon street, seen from above"), "x")

    assert found["1_x"]["neon"] == 2
    assert all(" " not in tag and len(tag) >= 3 for tag in found["1_x"])


def test_one_sentence_among_tags_is_cut() -> None:
    found = dataset.tags(captions(", ".join(f"t{n:02}" for n in range(90)), "very " * 100), "x")["1_x"]

    assert {"t00", "t89"} <= found.keys()
    assert max(map(len, found)) == 64


def test_the_most_frequent_five_hundred_are_kept() -> None:
    many = captions("often", *(f"often, t{n:04}" for n in range(1000)))
    found = dataset.tags(many, "x")["1_x"]

    assert len(found) == 500 and found["often"] == 1001


def test_control_characters_never_pass() -> None:
    assert dataset.tags(captions("a\x1b[31mcat\u202e, b\x00b"), "x") == {"1_x": {"a [31mcat": 1, "b b": 1}}
