"""The tables of families and methods: how a cell is decided, and that their tests are there."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.families import FAMILIES
from tests import tables

FAMILIES_TABLE, METHODS_TABLE = (tables.DOCS / f"{name}.json" for name in tables.TABLES)


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def test_a_cell_is_the_worst_that_came_of_its_tests_and_says_why_it_is_empty() -> None:
    passed, failed, skipped = (tables.PASSED, ""), (tables.FAILED, ""), (tables.NONE, "there is none")

    assert tables.cell([passed, passed], ["b", "a"]) == tables.Cell(tables.PASSED, "", ("a", "b"))
    assert tables.cell([passed, skipped], ["a"]).why == "there is none"
    assert tables.cell([skipped, failed, passed], ["a"]).says == tables.FAILED


# A file of tests for the plugin to look at: it skips, fails and asserts nothing so that each outcome is seen.
MARKED = """
import pytest

@pytest.mark.family("resume")
@pytest.mark.parametrize("name", ["good", "bad", "none"])
def test_a(name):
    if name == "none":
        pytest.skip("of this there is none")
    assert name == "good"

@pytest.mark.family("resume", "cache", row="good")
def test_b():
    pass

def test_c():
    assert False
"""


def test_outcomes_are_kept_by_row_and_column(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = family")
    (tmp_path / "test_marked.py").write_text(MARKED)
    outcomes = tables.Outcomes("family")
    pytest.main(["-m", "family", "-p", "no:cacheprovider", str(tmp_path)], plugins=[outcomes])
    found = outcomes.cells()

    assert {place: (one.says, one.why) for place, one in found.items()} == {
        ("good", "resume"): (tables.PASSED, ""),
        ("bad", "resume"): (tables.FAILED, ""),
        ("none", "resume"): (tables.NONE, "of this there is none"),
        ("good", "cache"): (tables.PASSED, ""),
    }
    assert len(found["good", "resume"].tests) == 2


def test_every_family_has_a_row_and_every_cell_a_test_that_passed_or_a_reason() -> None:
    found = cells(FAMILIES_TABLE)

    assert {(one["row"], one["column"]) for one in found} == {
        (row, column) for row in FAMILIES for column in tables.COLUMNS
    }
    assert all(bool(one["tests"]) or bool(one["why"]) for one in found)
    assert not [one for one in found if tables.FAILED in one["says"]]


@pytest.mark.parametrize("table", [FAMILIES_TABLE, METHODS_TABLE], ids=["families", "methods"])
def test_the_tests_that_a_table_names_are_there(table: Path) -> None:
    for test in {test for one in cells(table) for test in one["tests"]}:
        path, _, name = test.partition("[")[0].partition("::")
        tree = ast.parse((tables.ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
