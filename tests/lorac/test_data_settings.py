"""What a spec says of a data set beside its place: folders, masks, resolutions, and how the lock has them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lorac.data_lock import assume_images, lock
from lorac.spec import Folder, Images
from runtime import plan
from runtime.errors import InputError, SpecError


def picture(path: Path, size: tuple[int, int] = (128, 128), caption: str = "a, b", shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), shade, sum(path.as_posix().encode()) % 256)).save(path)
    if caption:
        path.with_suffix(".txt").write_text(caption)


def locked(folder: Path, **given):
    return lock(Images(str(folder), **{"resolution": 64, **given}), folder, 64)


def refusal(folder: Path, **given) -> list[str]:
    with pytest.raises(InputError) as caught:
        locked(folder, **given)
    return [line.replace(f"{folder}/", "") for line in caught.value.lines()]


def samples(images: plan.Images) -> Counter[str]:
    return Counter({item.path: item.repeats for item in images.items})


def test_a_folder_s_pictures_are_seen_more_often_and_weighed(tmp_path):
    for name in ("10_cat/a.png", "10_cat/close/b.png", "c.png"):
        picture(tmp_path / name)
    folders = (Folder("10_cat", loss_weight=0.5), Folder("10_cat/close", repeats=2, loss_weight=2))
    found = locked(tmp_path, folders=folders).images

    assert samples(found) == {"10_cat/a.png": 10, "10_cat/close/b.png": 20, "c.png": 1}
    assert [item.loss_weight for item in found.items] == [0.5, 2.0, 1.0]
    assert plan.are_weighted(found) and not plan.are_weighted(locked(tmp_path).images)


def test_prior_pictures_are_seen_as_often_as_all_others_and_never_get_the_trigger(tmp_path):
    for name in ("a.png", "b.png", "class/c.png", "class/d.png", "class/e.png"):
        picture(tmp_path / name, caption="a cat")
    folders = (Folder("class", prior=True),)
    given = {"folders": folders, "repeats": 4, "trigger": "zwx", "prepend_trigger": True}
    found = locked(tmp_path, **given)

    assert samples(found.images) == {
        "a.png": 4,
        "b.png": 4,
        "class/c.png": 3,
        "class/d.png": 3,
        "class/e.png": 2,
    }
    assert found.images.expected == 16
    assert {item.path[:5]: item.caption for item in found.images.items} == {
        "a.png": "zwx, a cat",
        "b.png": "zwx, a cat",
        "class": "a cat",
    }
    assert any("3 prior pictures" in note for note in found.notes)


def test_more_prior_pictures_than_others_are_left_out_and_noted(tmp_path):
    for name in ("a.png", "class/b.png", "class/c.png"):
        picture(tmp_path / name)
    found = locked(tmp_path, folders=(Folder("class", prior=True),))

    assert samples(found.images) == {"a.png": 1, "class/b.png": 1}
    assert any(note.startswith("1 prior pictures are not used") for note in found.notes)


def test_a_folder_without_pictures_and_a_set_of_prior_pictures_alone_are_refused(tmp_path):
    picture(tmp_path / "class/a.png")
    lines = refusal(tmp_path, folders=(Folder("class", prior=True), Folder("clas")))

    assert "error: clas: has no pictures" in lines
    assert any(line.endswith("has prior pictures only") for line in lines)


def test_each_picture_is_an_item_at_each_resolution_that_it_is_large_enough_for(tmp_path):
    picture(tmp_path / "large.png", size=(256, 128))
    picture(tmp_path / "small.png", size=(64, 64))
    found = locked(tmp_path, more_resolutions=(128, 64), bucket_step=64)

    buckets = {item.path: [] for item in found.images.items}
    for item in found.images.items:
        buckets[item.path].append(item.bucket)
    assert buckets == {"large.png": [(64, 64), (128, 64)], "small.png": [(64, 64)]}
    assert found.images.expected == 3
    assert found.images.resolution == 128
    assert plan.samples(found.images) == 2
    assert "1 of 2 pictures are too small for all resolutions, and seen at fewer" in found.notes


def test_what_is_elsewhere_is_assumed_at_every_resolution_and_with_as_many_prior_pictures():
    images = Images("x", more_resolutions=(768,), folders=(Folder("class", prior=True),))

    assert assume_images(images, 64, 10).expected == 40
    assert assume_images(images, 64, 10).resolution == 768


def test_mask_files_are_paired_by_name_and_locked(tmp_path):
    picture(tmp_path / "10_cat/a.png")
    picture(tmp_path / "10_cat/b.png")
    picture(tmp_path / "masks/10_cat/a.webp", caption="")
    found = locked(tmp_path, mask_path="masks", unmasked_weight=0.1)
    masked, plain = found.images.items

    assert (masked.mask, plain.mask) == ("masks/10_cat/a.webp", "")
    assert (found.images.mask, found.images.unmasked_weight) == ("files", 0.1)
    assert plan.locked_files(found.images)["masks/10_cat/a.webp"] == masked.mask_sha256 != ""
    assert "1 of 2 items have no mask, and count whole" in found.notes


def test_masks_of_another_size_of_no_picture_and_none_at_all_are_refused(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "masks/a.png", size=(64, 128), caption="")
    picture(tmp_path / "masks/b.png", caption="")

    assert refusal(tmp_path, mask_path="masks")[:2] == [
        "error: masks/a.png: is 64×128 pixels, its picture 128×128 pixels",
        "error: masks/b.png: is the mask of no picture",
    ]
    assert refusal(tmp_path, mask_path="mask", captions="optional")[0] == "error: mask: has no masks"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"folders": (Folder("../class"),)}, "data.folders.path must lie below data.path"),
        ({"folders": (Folder("a"), Folder("a"))}, "data.folders.path is named already"),
        ({"mask_path": "/masks"}, "data.mask_path must lie below data.path"),
        ({"mask_path": "masks", "alpha_mask": True}, "data.alpha_mask and data.mask_path are both given"),
        ({"unmasked_weight": 0.5}, "data.unmasked_weight is set, and there are no masks"),
        ({"keep_tags": 1}, "data.keep_tags is set, and nothing moves tags"),
    ],
)
def test_settings_that_say_nothing_together_are_refused(given, what):
    with pytest.raises(SpecError, match=what):
        Images("x", **given)


def test_pictures_have_views_only_where_something_varies_them(tmp_path):
    picture(tmp_path / "a.png", size=(256, 128))
    picture(tmp_path / "b.png", size=(128, 128))

    assert locked(tmp_path, picture_variants=9).images.augment is None
    found = locked(tmp_path, random_crop=True, color_jitter=0.1, buckets=False)
    assert found.images.augment == plan.Augment(
        variants=4, random_crop=True, random_zoom=0.0, color_jitter=0.1, hue_jitter=0.0
    )
    assert found.notes[-1].startswith("1 of 2 items have no room for random crops")
    assert not any("no room" in note for note in locked(tmp_path, random_zoom=0.1, resolution=64).notes)


def test_tags_have_wordings_only_where_something_moves_them(tmp_path):
    picture(tmp_path / "a.png")

    assert locked(tmp_path).images.caption_variants == 1
    moved = locked(tmp_path, shuffle_tags=True, keep_tags=1, caption_variants=5).images
    assert (moved.caption_variants, moved.keep_tags, moved.shuffle_tags) == (5, 1, True)
