"""The table of faults says what the tests say."""

from __future__ import annotations

from runtime import errors
from tests import faults


def test_the_table_is_as_the_tests_are_marked() -> None:
    assert faults.TABLE.read_text(encoding="utf-8") == faults.table(), "run: just faults"


def test_every_fault_is_told_once_with_an_exit_code_that_there_is() -> None:
    found = list(faults.rows())
    codes = {0, None} | {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}

    assert len(found) >= 20
    assert len({row.injected for row in found}) == len(found)
    assert {row.code for row in found} <= codes
