"""Broken inputs of every reader end in a value or in lines; `just fuzz` reads many more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_a_reader_gives_a_value_or_says_what_is_wrong(target: str) -> None:
    count = fuzz.fuzz(target, 25)

    assert count.cases >= 25
    assert count.read + count.refused == count.cases
    assert count.refused and count.refusals


def test_a_file_written_outside_is_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(AssertionError, match="written outside"), fuzz.no_writes_outside(tmp_path / "in"):
        (tmp_path / "escaped").write_bytes(b"")
