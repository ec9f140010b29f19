"""How a process ends, for each thing that can be raised."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runtime.ending import ended
from runtime.errors import InputError, Interrupted, LoracError, PlanError, Problem


def raising(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_work_without_errors_gives_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: 0) == 0
    assert ended(lambda: None) == 0
    assert ended(lambda: 5) == 5
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("error", "code"), [(InputError, 3), (PlanError, 4), (Interrupted, 130)])
def test_a_mistake_is_told_in_lines_with_its_exit_code(
    error: type[LoracError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(raising(error([Problem("a.png", "is empty", "make it again"), Problem("", "b")]))) == code
    assert capsys.readouterr() == ("", "error: a.png: is empty\nerror: b\nhint: make it again\n")


def test_a_bug_is_one_line_and_a_hint_and_its_traceback_is_in_the_named_file(
    temporary_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(raising(KeyError("rank\x1b[31m"))) == 1
    (file,) = temporary_folder.iterdir()
    assert capsys.readouterr() == (
        "",
        "error: this is a bug in lorac: KeyError: 'rank\\x1b[31m'\n"
        + f"hint: please report it with {file}\n",
    )
    text = file.read_text()
    assert "Traceback (most recent call last):" in text
    assert text.endswith("KeyError: 'rank\\x1b[31m'\n")


def test_a_bug_is_told_even_where_no_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert ended(raising(ValueError("x"))) == 1
    assert (
        capsys.readouterr().err
        == "error: this is a bug in lorac: ValueError: x\nhint: please report it with what --debug shows\n"
    )


def test_debugging_shows_the_traceback_before_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(InputError(Problem("a", "b"))), lambda: True) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith("error: a: b\n")


def test_interrupting_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


def test_a_reader_that_goes_away_is_no_bug() -> None:
    code = "import sys; from runtime.ending import ended; sys.exit(ended(lambda: print('x' * 1_000_000)))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()
