"""`lorac check` on clips: told from pictures by what lies there, and every planted fault found by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lorac.check.clips import FAULTS, are_clips
from runtime.safeio import images
from tests.lorac.calling import Called, call
from tests.lorac.check import planted

SETTINGS = ("--resolution=64", "--frames=3")


@pytest.fixture(autouse=True)
def data(tiny_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three folders of frames and `3.gif`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_clips, "data")
    return Path("data")


def checked(*options: str) -> Called:
    called = call("check", "data", *SETTINGS, *options)
    assert (called.code in (0, 3), called.err) == (True, "")
    return called


def found(*options: str) -> set[tuple[str, str]]:
    findings = json.loads(checked("--clips", "--json", *options).out)["findings"]
    assert all(one["what"] and one["advice"] for one in findings)
    return {(one["fault"], one["file"]) for one in findings}


def test_clips_are_known_by_what_lies_there_and_nothing_is_found_in_sound_ones() -> None:
    first, _, why = checked().out.splitlines()

    assert first == "data: 4 clips of 3 frames, nothing found"
    assert why.startswith("taken for clips") and "--pictures" in why
    assert json.loads(checked("--json").out) == {"clips": 4, "frames": 3, "findings": []}


def test_animations_alone_are_clips(data: Path) -> None:
    for number in range(3):
        shutil.rmtree(data / str(number))

    assert checked().out.startswith("data: 1 clips of 3 frames, nothing found")


def _frames(folder: Path, count: int, word: str = "frame") -> None:
    folder.mkdir()
    for number in range(count):
        planted.mosaic(f"{word} {folder.name} {number}", 64, 64).save(folder / f"{number:02}.png")


def _apart(data: Path) -> None:
    Image.new("RGB", (128, 64)).save(data / "1" / "1.png")


def _unpadded(data: Path) -> None:
    _frames(data / "long", 11)
    for path in (data / "long").iterdir():
        path.rename(path.with_name(f"{int(path.stem)}.png"))


def _still(data: Path) -> None:
    (data / "still").mkdir()
    for number in range(3):
        planted.mosaic("still", 64, 64).save(data / "still" / f"{number}.png")


def _boxed(data: Path) -> None:
    _frames(data / "boxed", 3)
    for path in (data / "boxed").iterdir():
        whole = Image.new("RGB", (64, 80))
        whole.paste(Image.open(path), (0, 8))
        whole.save(path)


def _blurred(data: Path) -> None:
    _frames(data / "blurred", 3)
    for path in (data / "blurred").iterdir():
        Image.open(path).resize((4, 4)).resize((64, 64), Image.Resampling.BICUBIC).save(path)


def _long(data: Path) -> None:
    _frames(data / "wide", 3)
    for path in (data / "wide").iterdir():
        Image.open(path).resize((512, 64), Image.Resampling.NEAREST).save(path)


PLANTED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "unusable": ("1", _apart),
    "not-taken": ("sea.mp4", lambda data: (data / "sea.mp4").write_bytes(b"film")),
    "frame-order": ("long", _unpadded),
    "motionless": ("still", _still),
    "duplicate": ("4", lambda data: shutil.copytree(data / "0", data / "4")),
    "too-long": ("wide", _long),
    "border": ("boxed", _boxed),
    "blurred": ("blurred", _blurred),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_each_fault_is_found_under_its_name_and_nothing_else(data: Path, fault: str) -> None:
    file, plant = PLANTED[fault]
    plant(data)

    assert found() == {(fault, f"data/{file}")}


def test_every_clip_is_too_small_at_a_higher_resolution() -> None:
    clips = ("0", "1", "2", "3.gif")

    assert found("--resolution=128") == {("too-small", f"data/{clip}") for clip in clips}
    assert {"too-small"} | PLANTED.keys() == {name for faults in FAULTS.values() for name in faults}


def test_each_frame_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    for name in ("open_picture", "open_frames"):
        whole = getattr(images, name)

        def counting(path: Path, *rest: int, whole: Callable[..., object] = whole) -> object:
            decoded.append(str(path))
            return whole(path, *rest)

        monkeypatch.setattr(images, name, counting)

    assert found() == set()
    assert sorted(decoded) == [f"data/{clip}/{frame}.png" for clip in range(3) for frame in range(3)] + [
        "data/3.gif"
    ]


def _stills(data: Path) -> None:
    for number in range(3):
        planted.add(data, f"{number}.jpg", planted.mosaic(str(number)))


def _captioned(data: Path) -> None:
    (data / "0" / "0.txt").write_text("a cat")


def _sizes(data: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 64 + 8 * number)).save(data / str(number) / "2.png")


def _repeats(data: Path) -> None:
    for number in range(3):
        (data / str(number)).rename(data / f"10_{number}")


@pytest.mark.parametrize("edit", [_stills, _captioned, _sizes, _repeats])
def test_pictures_are_not_taken_for_clips(data: Path, edit: Callable[[Path], None]) -> None:
    (data / "3.gif").unlink()
    assert are_clips(data)
    edit(data)
    shown = call("check", "data", *SETTINGS).out

    assert not are_clips(data) and "pictures, " in shown.splitlines()[0]
    assert "clips of 3 frames" in call("check", "data", "--clips", *SETTINGS).out


def test_clips_can_be_looked_at_as_pictures_and_an_animation_says_how_it_would_be_a_clip(data: Path) -> None:
    frames = [Image.open(data / "0" / f"{number}.png") for number in range(3)]
    frames[0].save(data / "moving.webp", save_all=True, append_images=frames[1:])

    shown = checked("--pictures").out

    assert "data: 10 pictures" in shown and "is an animation of 3 frames" in shown and "--clips" in shown


@pytest.mark.parametrize("options", [("--fix=clean",), ("--masks=0",), ("--trigger=waves",)])
def test_what_is_for_pictures_is_refused_for_clips(options: tuple[str, ...]) -> None:
    called = call("check", "data", *options)

    assert called.code == 2 and "these are clips" in called.err
    assert not Path("clean").exists()


def test_a_folder_without_clips_is_told() -> None:
    Path("empty").mkdir()

    assert call("check", "empty", "--clips").err.startswith("error: empty: has no clips")
