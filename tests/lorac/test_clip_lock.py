"""Clips are locked by their frames, and everything wrong with them is told at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest
from PIL import Image

from lorac import Images, Samples
from lorac.clip_lock import lock
from runtime import plan
from runtime.data import pixels
from runtime.errors import InputError, SpecError

CLIPS = Images("clips", resolution=64, frames=3)


@pytest.fixture
def folder(tiny_clips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clips, tmp_path / "clips"))


def test_folders_and_animations_are_clips_in_the_order_of_their_names(folder: Path) -> None:
    found = lock(CLIPS, folder, 64)

    assert [item.path for item in found.items] == ["0", "1", "2", "3.gif"]
    assert (found.kind, found.frames, found.expected) == ("clips", 3, 4)
    clips = [item.clip for item in found.items]
    assert all(clip is not None and len(clip.frames) == 3 for clip in clips)
    assert sorted(plan.locked_files(found)) == [
        *(f"{c}/{f}.png" for c in range(3) for f in range(3)),
        "3.gif",
    ]


def test_a_changed_frame_changes_its_clip_s_lock_and_no_other(folder: Path) -> None:
    before = lock(CLIPS, folder, 64)
    Image.new("RGB", (64, 64)).save(folder / "1" / "2.png")
    after = lock(CLIPS, folder, 64)

    changed = [a.path for a, b in zip(after.items, before.items, strict=True) if a.sha256 != b.sha256]
    assert changed == ["1"] and after.digest != before.digest


def test_a_folder_and_an_animation_of_the_same_frames_are_the_same_pixels(folder: Path) -> None:
    frames = [Image.open(folder / "0" / f"{number}.png") for number in range(3)]
    frames[0].save(folder / "4.webp", save_all=True, append_images=frames[1:], lossless=True)
    items = {item.path: item for item in lock(CLIPS, folder, 64).items}
    one, other = (pixels.read(folder, items[name]) for name in ("0", "4.webp"))

    assert one.shape == (3, 3, 64, 64)
    assert one.equal(other)


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    (folder / "0" / "2.png").unlink()
    Image.new("RGB", (128, 64)).save(folder / "1" / "1.png")
    (folder / "2" / "0.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64)).save(folder / "3.gif")
    with pytest.raises(InputError) as refused:
        lock(CLIPS, folder, 64)

    said = [problem.what for problem in refused.value.problems]
    assert said[0] == "has 2 frames, 3 are wanted"
    assert said[1] == "has frames of several sizes: 64×64, 128×64"
    assert "something else" in said[2]
    assert said[3] == "has 1 frames, 3 are wanted"


def test_what_clips_have_not_is_refused(folder: Path) -> None:
    with pytest.raises(SpecError, match="clips have no captions"):
        lock(attrs.evolve(CLIPS, caption_dropout=0.1), folder, 64)
    with pytest.raises(SpecError, match="there is no clip 'a cat'"):
        lock(CLIPS, folder, 64, samples=Samples(prompts=("a cat",)))
