"""Malformed specs and data folders end in their lines and exit code, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

from tests.lorac.calling import Called
from tests.lorac.show_errors import ROOT, malformed_data, malformed_specs


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


def there(folder: Path) -> dict[Path, int]:
    """Every file below a folder with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
