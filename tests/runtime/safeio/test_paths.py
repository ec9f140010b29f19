"""Paths from outside stay inside."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError, PlanError
from runtime.safeio import paths
from tests.runtime.safeio.refusals import refusal

HINT = "hint: use a path relative to the folder, with forward slashes"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/a.jpg").write_bytes(b"a")
    Path("secret").write_bytes(b"s")


def test_a_plain_path_is_found() -> None:
    assert paths.inside("data", "a.jpg") == Path("data/a.jpg").resolve()
    assert paths.inside("data", "new/b.jpg") == Path("data").resolve() / "new/b.jpg"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/etc/passwd", "is absolute"),
        ("C:/Windows/system.ini", "is absolute"),
        ("c:a.jpg", "is absolute"),
        ("//server/share/a.jpg", "is absolute"),
        ("\\\\server\\share", "has a backslash"),
        ("..\\secret", "has a backslash"),
        ("../secret", "leaves its folder with `..`"),
        ("a/../../secret", "leaves its folder with `..`"),
        ("..", "leaves its folder with `..`"),
        ("", "is empty"),
        (".", "is not in its plain form"),
        ("a//b", "is not in its plain form"),
        ("./a.jpg", "is not in its plain form"),
        ("a.jpg/", "is not in its plain form"),
        ("a\0.jpg", "has a NUL character"),
        ("\udc80.jpg", "is not UTF-8"),
        ("e\u0301.jpg", "is not in Unicode's NFC form"),
    ],
)
def test_each_way_out_has_its_line(path: str, what: str) -> None:
    lines = refusal(
        PlanError, paths.inside, "data", path, where="plan.json: data.files[3].path", error=PlanError
    )

    shown = repr(path)
    assert lines == [f"error: plan.json: data.files[3].path: path {shown} {what}", HINT]


def test_links_may_stay_inside_and_not_leave() -> None:
    Path("data/inner.jpg").symlink_to("a.jpg")
    Path("data/out.jpg").symlink_to("../secret")
    Path("data/up").symlink_to("..")
    Path("data/loop").symlink_to("loop")

    assert paths.inside("data", "inner.jpg") == Path("data/a.jpg").resolve()
    assert refusal(InputError, paths.inside, "data", "out.jpg") == [
        "error: out.jpg: path 'out.jpg' is a link that leaves its folder",
        "hint: copy the file into the folder",
    ]
    assert refusal(InputError, paths.inside, "data", "up/secret")[0] == (
        "error: up/secret: path 'up/secret' is a link that leaves its folder"
    )
    assert refusal(InputError, lambda: paths.open_file(paths.inside("data", "loop")))[0] in (
        "error: loop: path 'loop' is a loop of links",  # Python 3.11, 3.12
        "error: data/loop: is a loop of links",
    )


def test_the_root_itself_may_be_a_link() -> None:
    Path("linked").symlink_to("data")

    assert paths.inside("linked", "a.jpg") == Path("data/a.jpg").resolve()


def test_a_name_that_a_mac_wrote_in_pieces_is_found_by_its_composed_form() -> None:
    name = unicodedata.normalize("NFD", "café/é.jpg")
    Path("data", name).parent.mkdir()
    Path("data", name).write_bytes(b"x")

    written = paths.relative_name("data", Path("data", name))

    assert written == unicodedata.normalize("NFC", name)
    assert paths.inside("data", written).read_bytes() == b"x"


def test_a_name_that_cannot_be_written_down_is_refused() -> None:
    assert refusal(InputError, paths.relative_name, "data", os.fsdecode(b"data/\xff.jpg")) == [
        "error: data/\\udcff.jpg: its name is not UTF-8",
        "hint: rename the file",
    ]


@settings(deadline=None)
@given(st.text())
def test_any_text_is_inside_or_refused(text: str) -> None:
    root = Path.cwd().resolve()
    try:
        found = paths.inside(root, text)
    except InputError:
        return
    assert found.is_relative_to(root)


def test_only_plain_files_are_opened() -> None:
    os.mkfifo("pipe")

    assert refusal(InputError, paths.open_file, "gone.jpg") == ["error: gone.jpg: does not exist"]
    assert refusal(InputError, paths.open_file, "data") == ["error: data: is a folder, not a file"]
    assert refusal(InputError, paths.open_file, "pipe") == ["error: pipe: is not a plain file"]
    assert refusal(InputError, paths.open_file, "/dev/zero") == ["error: /dev/zero: is not a plain file"]
    assert refusal(InputError, paths.open_file, "a\0b") == ["error: a\\x00b: is not a possible file name"]
    assert refusal(InputError, paths.open_file, "x" * 300)[0].endswith("x: is not a possible file name")
    assert refusal(InputError, paths.open_file, "data/a.jpg/b") == ["error: data/a.jpg/b: does not exist"]


def test_paths_are_shown_from_here_and_escaped() -> None:
    assert paths.display(Path.cwd() / "data" / "a.jpg") == "data/a.jpg"
    assert paths.display("/elsewhere/a.jpg") == "/elsewhere/a.jpg"
    assert refusal(InputError, paths.open_file, "a\x1b[31m\n.jpg") == [
        "error: a\\x1b[31m\\n.jpg: does not exist"
    ]
