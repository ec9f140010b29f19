"""What of a data folder is looked at: hidden files, links, pipes, odd names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lorac.data_lock import lock_images
from lorac.spec import Images
from runtime import plan
from runtime.errors import InputError
from tests.lorac.bad_data import good, picture


def lock_at(folder: Path) -> plan.Images:
    return lock_images(Images(str(folder), resolution=64), folder, 64)


def captions_at(folder: Path) -> dict[str, str]:
    return {item.path: item.caption for item in lock_at(folder).items}


def refusal(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        lock_at(folder)
    return caught.value.lines()


def test_hidden_files_are_passed_over(tmp_path):
    good(tmp_path, 1)
    (tmp_path / "._0000.png").write_bytes(b"x")
    picture(tmp_path / ".ipynb_checkpoints" / "0000.png", 5)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "0000.png").write_bytes(b"x")

    assert [item.path for item in lock_at(tmp_path).items] == ["0000.png"]


def test_links_inside_the_folder_are_followed_and_loops_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(Path("d"), 1)
    Path("d/real").mkdir()
    Image.new("RGB", (64, 64)).save("d/real/.kept.png")
    Path("d/0001.png").symlink_to("real/.kept.png")
    Path("d/0001.txt").write_text("by a link")
    assert captions_at(Path("d")) == {"0000.png": "picture number 0", "0001.png": "by a link"}

    Path("d/0002.png").symlink_to("0002.png")
    Path("d/all").symlink_to(".")
    assert refusal(Path("d")) == [
        "error: d/0002.png: is a loop of links",
        "error: d/all: is a link to a folder",
        "hint: remove the link",
        "hint: put the folder itself there",
    ]


def test_a_pipe_under_a_pictures_name_is_told_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(Path("d"), 2)
    Path("d/0001.png").unlink()
    os.mkfifo("d/0001.png")

    assert refusal(Path("d"))[0] == "error: d/0001.png: is not a plain file"


def test_a_name_that_is_not_utf8_is_shown_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good(Path("d"), 1)
    shutil.copy(b"d/0000.png", b"d/bad\xff\n.png")

    assert refusal(Path("d"))[0] == r"error: d/bad\udcff\n.png: its name is not UTF-8"
