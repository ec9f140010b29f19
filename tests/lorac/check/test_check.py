"""`lorac check` on pictures: every planted fault is found by its name, and nothing in a clean folder."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorac.check import FAULTS
from lorac.check.borders import NONE, bands
from tests.lorac.calling import Called, call
from tests.lorac.check import planted

NAMES = {name for faults in FAULTS.values() for name in faults}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(*arguments: str) -> Called:
    settings = [f"--resolution={planted.RESOLUTION}", f"--trigger={planted.TRIGGER}"]
    settings += ["--masks=masks"] * (Path("data/masks").is_dir() and "--fix" not in arguments)
    called = call("check", "data", *settings, *arguments)
    assert (called.code in (0, 3), called.err) == (True, "")
    return called


def found(*arguments: str) -> set[tuple[str, str]]:
    called = checked("--json", *arguments)
    findings = json.loads(called.out)["findings"]
    assert called.code == (3 if any(one["level"] == "error" for one in findings) else 0)
    assert all(one["what"] and one["advice"] for one in findings)
    return {(one["fault"], one["file"]) for one in findings}


def plant_all(folder: Path) -> None:
    planted.clean(folder)
    for _, plant in planted.FAULTS.values():
        plant(folder)


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_clean_folder_has_no_findings() -> None:
    planted.clean(Path("data"))

    assert checked().out == "data: 8 pictures, nothing found\n"


def test_a_mask_is_no_picture_and_has_to_fit_its_own() -> None:
    planted.clean(Path("data"))
    Path("data/masks").mkdir()
    for name, side in (("0", planted.SIDE), ("1", 64)):
        Image.new("L", (side, side), "white").save(f"data/masks/{name}.png")

    assert found() == {("mask", "data/masks/1.png")}
    assert "is 64×64 pixels, its picture 128×128 pixels" in checked().out


@pytest.mark.parametrize("options", [("--masks=../other",), ("--masks=masks", "--fix=clean")])
def test_masks_lie_inside_and_are_not_copied_by_fix(options: tuple[str, ...]) -> None:
    planted.clean(Path("data"))

    assert call("check", "data", *options).code == 2
    assert not Path("clean").exists()


def test_each_fault_alone_is_found_under_its_name_and_nothing_else() -> None:
    assert planted.FAULTS.keys() == NAMES
    for fault, (file, plant) in planted.FAULTS.items():
        planted.clean(Path("data"))
        plant(Path("data"))
        place = f"data/{file}" if file else "data"
        also = {("grey", place)} if fault == "16-bit" else set()
        assert found() == {(fault, place)} | also, fault
        Path("data").rename(f"checked-{fault}")


def test_all_faults_at_once_are_found_and_printed_with_what_to_do() -> None:
    plant_all(Path("data"))
    wanted = {(fault, f"data/{file}" if file else "data") for fault, (file, _) in planted.FAULTS.items()}

    assert wanted <= found()
    shown = checked().out
    assert all(f"{fault} (" in shown for fault in NAMES)
    assert "-> crop it; --fix does where enough is left" in shown


def test_the_worst_comes_first_and_of_many_a_few_are_named() -> None:
    planted.clean(Path("data"))
    for number in range(9):
        planted.add(Path("data"), f"tiny{number}", planted.mosaic(f"tiny {number}", 40, 40))
    planted.FAULTS["cmyk"][1](Path("data"))
    planted.FAULTS["unreadable"][1](Path("data"))

    shown = checked().out.splitlines()
    assert shown[0] == "data: 19 pictures, 1 error, 9 warnings, 1 note"
    headings = [line for line in shown if line.startswith(("error:", "warning:", "note:"))]
    assert headings == ["error: unreadable (1)", "warning: too-small (9)", "note: cmyk (1)"]
    assert sum(" is too small " in line for line in shown) == 3
    assert "  and 6 more; --json lists all" in shown


@pytest.mark.parametrize(
    ("fault", "codes"), [("unreadable", (3, 3)), ("too-small", (0, 3)), ("cmyk", (0, 0))]
)
def test_errors_end_in_an_exit_code_and_warnings_where_they_are_to(
    fault: str, codes: tuple[int, int]
) -> None:
    planted.clean(Path("data"))
    planted.FAULTS[fault][1](Path("data"))

    assert (checked().code, checked("--strict").code) == codes


def test_fix_writes_a_clean_copy_and_leaves_the_original_alone() -> None:
    plant_all(Path("data"))
    before = bytes_of(Path("data"))

    checked("--fix", "clean")

    assert bytes_of(Path("data")) == before
    copies = {path.name: path for path in Path("clean").rglob("*.*")}
    assert not {"truncated.png", "animated.png", "copied.png", "turned.jpg", "cmyk.jpg"} & copies.keys()
    assert copies["0.png"].read_bytes() == Path("data/0.png").read_bytes()
    for name, size in (("turned.png", (160, 128)), ("letterboxed.png", (128, 96)), ("deep.png", (128, 128))):
        with Image.open(copies[name]) as picture:
            assert (picture.mode, picture.size, "exif" in picture.info) == ("RGB", size, False)
    with Image.open(copies["see_through.png"]) as picture:
        assert picture.getpixel((45, 45)) == (255, 255, 255)
    with Image.open(copies["deep.png"]) as picture:
        assert np.array_equal(
            np.asarray(picture.convert("L")), np.asarray(planted.mosaic("deep").convert("L"))
        )
    rows = {row["image"]: row["prompt"] for row in table("clean/metadata.csv")}
    assert rows["0.png"] == "mosaic style, a red fox on a shelf" and rows["uncaptioned.png"] == ""
    done = {row["file"]: (row["copy"], row["done"]) for row in table("clean/changes.csv")}
    assert done["turned.jpg"] == ("turned.png", "turned upright")
    assert done["copied.png"] == ("", "left out: the same file as 0.png")
    assert done["letterboxed.png"][1] == "border cropped: left 0, top 16, right 0, bottom 16"
    assert "0.png" not in done


def test_a_border_stays_where_too_little_would_be_left_to_train_on() -> None:
    planted.clean(Path("data"))
    narrow = Image.new("RGB", (80, 80), "black")
    narrow.paste(planted.mosaic("narrow", 80, 50), (0, 15))
    planted.add(Path("data"), "narrow", narrow)

    checked("--fix", "clean")
    assert Path("clean/narrow.png").read_bytes() == Path("data/narrow.png").read_bytes()
    assert table("clean/changes.csv") == []


def test_a_copy_as_png_never_takes_another_pictures_name() -> None:
    planted.clean(Path("data"))
    planted.mosaic("one").convert("CMYK").save("data/0.jpg", quality=95)
    Path("data/metadata.csv").write_text("image,prompt\n0.jpg,a kite\n0.png,a fox\n")

    checked("--fix", "clean")

    rows = {row["image"]: row["prompt"] for row in table("clean/metadata.csv")}
    assert (rows["0.png"], rows["0.jpg.png"]) == ("a fox", "a kite")
    assert Path("clean/0.png").read_bytes() == Path("data/0.png").read_bytes()


def test_what_fix_mends_is_not_found_in_its_copy() -> None:
    plant_all(Path("data"))
    checked("--fix", "clean")
    mended = {
        "unreadable",
        "animated",
        "not-taken",
        "duplicate",
        "border",
        "see-through",
        "turned",
        "cmyk",
        "16-bit",
    }

    Path("data").rename("original")
    Path("clean").rename("data")
    assert not {fault for fault, _ in found()} & (mended | {"colour-profile"})


@pytest.mark.parametrize("out", ["data", "data/clean", ".", "taken"])
def test_fix_goes_nowhere_near_the_original_nor_over_what_is_there(out: str) -> None:
    planted.clean(Path("data"))
    planted.clean(Path("taken"))

    called = call("check", "data", "--fix", out)

    assert (called.code, called.out) == (2, "")
    assert called.err.endswith("hint: give another folder: --fix OUT\n")


def test_a_subject_on_a_plain_ground_has_no_border() -> None:
    ground = np.full((100, 100, 3), 255, np.uint8)
    y, x = np.mgrid[:100, :100]
    ground[(x - 50) ** 2 + (y - 50) ** 2 < 40**2] = (200, 30, 30)

    assert bands(ground) == NONE
    assert bands(np.full((50, 50, 3), 7, np.uint8)) == NONE


def test_a_frame_is_found_on_all_four_sides() -> None:
    framed = Image.new("RGB", (100, 80), (250, 250, 250))
    framed.paste(planted.mosaic("framed", 84, 70), (10, 4))

    assert bands(np.asarray(framed)) == (10, 4, 6, 6)


def test_the_file_with_control_characters_is_shown_escaped() -> None:
    planted.clean(Path("data"))
    planted.add(Path("data"), "a\x1b[2J", planted.mosaic("escape"), "a blue teapot")

    assert "\x1b" not in checked().out
