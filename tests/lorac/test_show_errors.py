"""Malformed specs and data folders end in their lines and exit code, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

from tests.lorac.bad_data import CASES as DATA
from tests.lorac.bad_files import CASES
from tests.lorac.calling import Called
from tests.lorac.show_errors import ROOT, malformed_data, malformed_files, malformed_specs


def test_each_malformed_spec_ends_in_its_lines_with_exit_code_2() -> None:
    before = there(ROOT / "generated")
    ended = {name: (called, wanted) for name, called, wanted in malformed_specs()}
    assert len(ended) >= 10
    for name, (called, wanted) in ended.items():
        assert called == Called(2, "", "\n".join(wanted) + "\n"), name
    assert there(ROOT / "generated") == before


def test_each_malformed_data_folder_ends_in_its_lines_with_exit_code_3(
    tmp_path: Path, tiny_base: Path
) -> None:
    ended = {name: (called, wanted) for name, called, wanted in malformed_data(tmp_path, tiny_base)}
    assert len(ended) >= 10
    for name, (called, wanted) in ended.items():
        assert called == Called(3, "", "\n".join(wanted) + "\n"), name
    assert not (tmp_path / "generated").exists()


def test_each_broken_file_ends_in_its_lines_and_runs_nothing(tmp_path: Path) -> None:
    for words, called, wanted in malformed_files(tmp_path):
        assert called == wanted, words
    assert {path.name for path in tmp_path.iterdir()} <= CASES.keys()


def test_there_are_more_than_forty_messages_to_look_at() -> None:
    assert len(list((ROOT / "tests" / "lorac" / "bad_specs").glob("*.py"))) + len(DATA) + len(CASES) > 40


def there(folder: Path) -> dict[Path, int]:
    """Every file below a folder with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
