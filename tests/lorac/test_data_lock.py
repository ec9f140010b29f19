"""The data lock: what goes in by content, what is refused, and in which words."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import attrs
import pytest
from PIL import Image

from lorac.data_lock import assume_images, assumed_buckets, lock, lock_images
from lorac.spec import Images
from runtime import plan
from runtime.errors import InputError
from runtime.safeio import images as safe_images
from tests.lorac.bad_data import CASES, good, picture, table

ROOT = Path(__file__).parents[2]


def lock_at(folder: Path, **given) -> plan.Images:
    return lock_images(Images(str(folder), resolution=64, **given), folder, 64)


def captions_at(folder: Path, **given) -> dict[str, str]:
    return {item.path: item.caption for item in lock_at(folder, **given).items}


def refusal(folder: Path, **given) -> list[str]:
    with pytest.raises(InputError) as caught:
        lock_at(folder, **given)
    return caught.value.lines()


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_folder_is_refused_with_all_that_is_wrong(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CASES[name].make(Path(name))

    assert refusal(Path(name)) == CASES[name].lines


def test_an_item_says_what_is_in_the_file(tmp_path):
    picture(tmp_path / "a.png", size=(128, 70))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf a  red\r\nthing \r\n")

    (item,) = lock_at(tmp_path).items
    assert attrs.evolve(item, sha256="") == plan.Item(
        path="a.png",
        sha256="",
        width=128,
        height=70,
        caption="a red thing",
        repeats=1,
        bucket=(64, 64),
    )
    assert item.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()


def test_the_size_is_the_one_a_viewer_shows(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (200, 100), "red").save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("x")

    (item,) = lock_at(tmp_path).items
    assert (item.width, item.height) == (100, 200)


# -------------------------------------------------------------------------------------------- what decides it


def test_two_folders_in_different_places_have_the_same_lock(tmp_path):
    good(tmp_path / "here", 4)
    (tmp_path / "there" / "deep").mkdir(parents=True)
    for path in sorted((tmp_path / "here").iterdir(), reverse=True):
        shutil.copy(path, tmp_path / "there" / "deep" / path.name)
        os.utime(tmp_path / "there" / "deep" / path.name, (1, 1))

    assert lock_at(tmp_path / "here") == lock_at(tmp_path / "there" / "deep")


@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1", "ja_JP.SJIS"])
def test_the_lock_does_not_depend_on_locale_home_or_hash_seed(tmp_path, locale):
    table(tmp_path / "data", "image,prompt\n0000.png,na\u00efve \u732b\n0001.png,\u00e9t\u00e9\n")
    code = (
        "from pathlib import Path; from lorac.data_lock import lock_images; from lorac.spec import Images\n"
        "print(lock_images(Images('x', resolution=64), Path('data'), 64).digest)"
    )
    env = {
        "LC_ALL": locale,
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(ROOT),
        "HOME": "/nowhere",
        "TZ": "Asia/Tokyo",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == lock_at(tmp_path / "data").digest


def test_one_changed_pixel_changes_the_digest(tmp_path):
    good(tmp_path)
    before = lock_at(tmp_path)
    changed = Image.open(tmp_path / "0001.png")
    red, *rest = changed.getpixel((5, 5))
    changed.putpixel((5, 5), (red ^ 1, *rest))
    changed.save(tmp_path / "0001.png")

    after = lock_at(tmp_path)
    assert after.digest != before.digest
    assert [b.sha256 == a.sha256 for b, a in zip(before.items, after.items, strict=True)] == [
        True,
        False,
        True,
    ]


def test_a_changed_caption_changes_the_digest(tmp_path):
    good(tmp_path)
    before = lock_at(tmp_path).digest
    (tmp_path / "0001.txt").write_text("another")

    assert lock_at(tmp_path).digest != before


def test_names_and_captions_are_nfc_whatever_the_disk_says(tmp_path):
    for folder, form in (("mac", "NFD"), ("linux", "NFC")):
        picture(tmp_path / folder / unicodedata.normalize(form, "café.png"))
        (tmp_path / folder / unicodedata.normalize(form, "café.txt")).write_text(
            unicodedata.normalize(form, "a café"), encoding="utf-8"
        )

    assert lock_at(tmp_path / "mac") == lock_at(tmp_path / "linux")
    assert captions_at(tmp_path / "mac") == {"café.png": "a café"}


def test_a_second_plan_decodes_only_what_is_new(tmp_path, monkeypatch):
    good(tmp_path / "data")
    images, folder, cache = Images("x", resolution=64), tmp_path / "data", tmp_path / "cache"
    opened = []
    real = safe_images.open_picture
    monkeypatch.setattr(safe_images, "open_picture", lambda path: opened.append(path.name) or real(path))
    plain = lock_images(images, folder, 64)
    opened.clear()

    assert lock_images(images, folder, 64, cache=cache) == plain
    assert sorted(opened) == ["0000.png", "0001.png", "0002.png"]
    opened.clear()
    assert lock_images(images, folder, 64, cache=cache) == plain
    assert opened == []
    picture(folder / "0001.png", 99)
    assert lock_images(images, folder, 64, cache=cache).items[1].sha256 != plain.items[1].sha256
    assert opened == ["0001.png"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"\xff" + data, lambda data: b"\n\0\n"]
)
def test_a_damaged_cache_changes_nothing(tmp_path, damage):
    good(tmp_path / "data")
    images, folder, cache = Images("x", resolution=64), tmp_path / "data", tmp_path / "cache"
    plain = lock_images(images, folder, 64, cache=cache)
    for file in cache.iterdir():
        file.write_bytes(damage(file.read_bytes()))

    assert lock_images(images, folder, 64, cache=cache) == plain
    assert lock_images(images, folder, 64, cache=cache) == plain


def test_a_picture_that_is_not_whole_is_refused_each_time(tmp_path):
    good(tmp_path / "data")
    (tmp_path / "data" / "0001.png").write_bytes((tmp_path / "data" / "0000.png").read_bytes()[:-137])
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            lock_images(Images("x", resolution=64), tmp_path / "data", 64, cache=tmp_path / "cache")
        assert [problem.what for problem in caught.value.problems] == ["is truncated (137 bytes missing)"]


# ----------------------------------------------------------------------------------- where captions come from


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "image,prompt\n0000.png,a cat\n0001.png,b\n"),
        ("metadata.csv", "\ufeffimage,prompt\r\n0000.png,a cat\r\n0001.png,b\r\n"),
        ("metadata.csv", 'file_name,text\n0001.png,b\n\n"0000.png","a\ncat"\n'),
        ("metadata.csv", 'Prompt , Image,score\na cat,./0000.png,3\n"b",0001.png,4\n'),
        (
            "metadata.jsonl",
            '{"file_name": "0000.png", "text": "a cat"}\n{"image": "0001.png", "prompt": "b"}',
        ),
        (
            "metadata.jsonl",
            '\ufeff{"image":"0000.png","caption":" a\u2028cat"}\r\n\r\n{"image":"0001.png","text":"b"}\r\n',
        ),
    ],
)
def test_metadata_files(tmp_path, name, text):
    table(tmp_path, text, name)

    assert captions_at(tmp_path) == {"0000.png": "a cat", "0001.png": "b"}


def test_quotes_and_commas_in_a_csv(tmp_path):
    table(tmp_path, 'image,prompt\n0000.png,"a ""red"", round thing"\n', count=1)

    assert captions_at(tmp_path) == {"0000.png": 'a "red", round thing'}


def test_metadata_elsewhere_is_found_from_the_specs_folder(tmp_path):
    good(tmp_path / "data", 1)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "mine.csv").write_text("image,prompt\n0000.png,from elsewhere\n")
    images = Images("data", resolution=64, metadata_path="words/mine.csv")

    (item,) = lock_images(images, tmp_path / "data", 64, spec_folder=tmp_path).items
    assert item.caption == "from elsewhere"


def test_an_unclosed_quote_is_told_by_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(Path("d"), 'image,prompt\n0000.png,a\n0001.png,"b\n')

    assert refusal(Path("d")) == [
        "error: d/metadata.csv:3: is not CSV from here on: unexpected end of data",
        "error: d/0001.png: has no row in d/metadata.csv",
        "hint: close each quote; write a quote inside a caption twice",
        'hint: add the row, or set Images(captions="optional")',
    ]


def test_a_csv_separated_by_semicolons_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(Path("d"), "image;prompt\n0000.png;a\n", count=1)

    assert refusal(Path("d"))[1] == "hint: separate the columns by commas"


def test_two_metadata_files_are_one_too_many(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(Path("d"), "image,prompt\n0000.png,a\n", count=1)
    table(Path("d"), '{"image": "0000.png", "text": "a"}', "metadata.jsonl", count=1)

    assert refusal(Path("d")) == [
        "error: d: has both metadata.csv and metadata.jsonl",
        "hint: keep one, or name one as data.metadata_path",
    ]


def test_kohyas_repeat_folders(tmp_path):
    picture(tmp_path / "10_sks dog" / "a.png", 1)
    picture(tmp_path / "3_sks_cat" / "b.png", 2)
    (tmp_path / "3_sks_cat" / "b.txt").write_text("a cat, indoors")
    picture(tmp_path / "3_sks_cat" / "inner" / "c.png", 3)
    (tmp_path / "3_sks_cat" / "inner" / "c.txt").write_text("a cat, outdoors")

    locked = lock(Images("x", resolution=64, repeats=2), tmp_path, 64)
    assert [(item.path, item.caption, item.repeats) for item in locked.images.items] == [
        ("10_sks dog/a.png", "sks dog", 20),
        ("3_sks_cat/b.png", "a cat, indoors", 6),
        ("3_sks_cat/inner/c.png", "a cat, outdoors", 6),
    ]
    assert locked.images.expected == 32
    assert locked.notes == ("10_sks dog: 1 pictures × 10 repeats", "3_sks_cat: 2 pictures × 3 repeats")


def test_a_repeat_folder_with_some_captions_wants_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(Path("d/5_cat"))
    Path("d/5_cat/0001.txt").unlink()

    assert refusal(Path("d"))[0] == "error: d/5_cat/0001.png: has no caption"


def test_a_year_is_no_number_of_repeats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(Path("d/20240131_trip"))

    assert refusal(Path("d")) == [
        "error: d/20240131_trip: would be seen 20,240,131 times an epoch; a number and `_` in front ask for"
        " repeats",
        "hint: rename the folder",
    ]


def test_captions_under_another_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(Path("d"))
    Path("d/0001.txt").rename("d/0001.caption")

    assert refusal(Path("d")) == [
        "error: d/0001.png: has no .txt caption, but there is 0001.caption",
        'hint: set Images(caption_extension=".caption")',
    ]
    for name in ("0000", "0002"):
        Path(f"d/{name}.txt").rename(f"d/{name}.caption")
    assert len(lock_at(Path("d"), caption_extension=".caption").items) == 3


def test_a_folder_without_any_caption_is_told_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(Path("d/inner"), "image,prompt\n0000.png,a\n0001.png,b\n")

    assert refusal(Path("d")) == [
        "error: d: none of its 2 pictures has a caption",
        "hint: inner/metadata.csv is in an inner folder: set data.path to d/inner",
    ]


def test_captions_may_be_optional(tmp_path):
    good(tmp_path)
    (tmp_path / "0001.txt").unlink()

    locked = lock(Images("x", resolution=64, captions="optional"), tmp_path, 64)
    assert [item.caption for item in locked.images.items] == ["picture number 0", "", "picture number 2"]
    assert locked.notes == ("1 of 3 pictures have no caption",)


def test_the_trigger_is_put_before_captions_that_lack_it(tmp_path):
    lines = ["image,prompt", "0000.png,a SKS  dog", "0001.png,desks", "0002.png,"]
    table(tmp_path, "\n".join(lines), count=3)

    found = captions_at(tmp_path, trigger="sks dog", prepend_trigger=True, captions="optional")
    assert found == {"0000.png": "a SKS dog", "0001.png": "sks dog, desks", "0002.png": "sks dog"}
    assert captions_at(tmp_path, trigger="sks dog", captions="optional")["0001.png"] == "desks"


def test_a_caption_is_text_and_nothing_else(tmp_path):
    good(tmp_path, 1)
    hostile = "{{ 7*7 }} %s ${HOME} \x1b[31m <lora:x:1>"
    (tmp_path / "0000.txt").write_text(hostile)

    assert captions_at(tmp_path) == {"0000.png": hostile}


# -------------------------------------------------------------------------------------------------- what else


def test_bad_pictures_can_be_skipped_and_are_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CASES["unreadable"].make(Path("d"))
    Path("d/0004.txt").unlink()

    locked = lock(Images("d", resolution=64, skip_bad=True), Path("d"), 64)
    assert [item.path for item in locked.images.items] == ["0005.png"]
    assert [str(problem) for problem in locked.skipped] == [
        "d/0004.png: has no caption",
        "d/0000.png: is truncated (137 bytes missing)",
        "d/0001.png: is empty (0 bytes)",
        "d/0002.png: is a web page, not a picture",
        "d/0003.png: is a GIF; JPEG, PNG and WebP are read",
    ]


def test_skipping_all_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(Path("d"), 1)
    Path("d/0000.png").write_bytes(b"")

    assert refusal(Path("d"), skip_bad=True)[0] == "error: d/0000.png: is empty (0 bytes)"


def test_enlarged_and_badly_cropped_pictures_are_noted(tmp_path):
    good(tmp_path, 1)
    picture(tmp_path / "0000.png", 0, (300, 20))

    locked = lock(Images("x", resolution=64, upscale=True), tmp_path, 64)
    assert locked.notes == (
        "1 of 1 pictures are enlarged",
        "1 of 1 pictures lose more than a third to the crop",
    )


def test_progress_counts_every_picture(tmp_path):
    good(tmp_path)
    seen = []
    lock(Images("x", resolution=64), tmp_path, 64, progress=lambda done, total: seen.append((done, total)))

    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_pictures_elsewhere_are_assumed():
    images = Images("x", resolution=512, repeats=3, flip=True, caption_dropout=0.1)

    assert assume_images(images, 64, 100) == plan.Images(
        digest="", items=(), expected=300, resolution=512, flip=True, caption_dropout=0.1
    )
    assert assumed_buckets(images, 64)[4] == (512, 512)


def test_the_lock_survives_the_plans_json(tmp_path):
    good(tmp_path)
    locked = lock_at(tmp_path)

    assert plan.structure(json.loads(json.dumps(plan.unstructure(locked))), plan.Images, "x") == locked


def test_what_is_held_out_goes_by_content_and_is_never_trained_on(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for number in range(10):
        picture(first / f"{number}.png", number=number)
        (first / f"{number}.txt").write_text(f"number {number}")
    shutil.copytree(first, second)
    for number in range(10):  # other names, so another order
        (second / f"{number}.png").rename(second / f"{9 - number}-renamed.png")
        (second / f"{number}.txt").rename(second / f"{9 - number}-renamed.txt")

    here, there = lock_at(first, held_out=0.3), lock_at(second, held_out=0.3)
    held = {item.sha256 for item in here.held_items}

    assert (len(here.items), len(held), here.expected) == (7, 3, 7)
    assert not held & {item.sha256 for item in here.items}
    assert held == {item.sha256 for item in there.held_items}
    assert len(lock_at(first, held_out=0.01).held_items) == 1
    assert lock_at(first).held_items == ()


def test_to_hold_out_all_pictures_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(Path("data/a.png"))
    Path("data/a.txt").write_text("a")

    assert refusal(Path("data"), held_out=0.5) == [
        "error: data.held_out: of 1 pictures none is left to train on",
        "hint: hold out fewer, or add pictures",
    ]
