"""Rows of data files: every value and place right, and everything wrong found in one reading."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from runtime.data import tables
from runtime.data.tables import Row
from runtime.errors import InputError, MachineError, Problem

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)
names = st.text(st.characters(categories=("Ll", "Lu", "Nd")), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def text_rows(draw: st.DrawFn) -> list[dict[str, str]]:
    columns = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    row = st.fixed_dictionaries(dict.fromkeys(columns, texts)).filter(
        lambda r: any(v.strip() for v in r.values())
    )
    return draw(st.lists(row, min_size=1, max_size=5))


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def found(path: Path) -> list[tuple[int, object]]:
    """(line, the row's values or what is wrong) of everything in a file."""
    result: list[tuple[int, object]] = []
    for item in tables.rows(path):
        name, _, line = item.where.rpartition(":")
        assert name == path.as_posix()
        result.append((int(line), dict(item.values) if isinstance(item, Row) else item.what))
    return result


def refusal(path: Path) -> Problem:
    with pytest.raises(InputError) as caught:
        list(tables.rows(path))
    (problem,) = caught.value.problems
    return problem


# -------------------------------------------------------------------------------------------------- round trips


@given(
    rows=st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=5),
    ascii_only=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_jsonl_rows_come_back_with_their_lines(tmp_path_factory, rows, ascii_only):
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=ascii_only).encode() + b"\n" for row in rows))
    assert found(path) == list(enumerate(rows, start=1))


@given(
    rows=st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=5),
    indent=st.sampled_from([None, 2]),
)
@settings(max_examples=60, deadline=None)
def test_json_rows_come_back(tmp_path_factory, rows, indent):
    path = tmp_path_factory.mktemp("json") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert [row for _, row in found(path)] == rows


@given(rows=text_rows(), end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None)
def test_csv_rows_come_back(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    assert [row for _, row in found(path)] == rows


def test_parquet_rows_come_back_and_a_cut_file_is_told(tmp_path):
    rows = [
        {"instruction": "a", "turns": [{"role": "user"}], "n": 1},
        {"instruction": None, "turns": [], "n": 2},
    ]
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert found(path) == [(1, rows[0]), (2, rows[1])]

    cut = write(tmp_path, "cut.parquet", path.read_bytes()[:-20])
    (problem,) = tables.rows(cut)
    assert "is not a whole Parquet file (after row 0)" in str(problem)


def test_without_pyarrow_a_parquet_file_names_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MachineError) as caught:
        list(tables.rows(write(tmp_path, "rows.parquet", b"PAR1")))
    (problem,) = caught.value.problems
    assert "[parquet]" in problem.hint


@pytest.mark.parametrize("name", ["book.txt", "book.MD"])
def test_a_plain_text_file_is_one_row(tmp_path, name):
    assert found(write(tmp_path, name, "\ufeffone\n\ntwo\n")) == [(1, {"text": "one\n\ntwo\n"})]


# ------------------------------------------------------------------------------------------------- right places


def test_jsonl_passes_over_a_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path):
    path = write(tmp_path, "rows.jsonl", '\ufeff{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert found(path) == [(1, {"a": 1}), (4, {"a": 2})]


def test_every_wrong_line_of_jsonl_is_told_and_the_right_ones_are_read(tmp_path):
    lines = [
        b'{"a": 1}',
        b'{"a": 1',
        b"[1]",
        b'{"a": "\xff"}',
        b'{"a": "\0"}',
        b'{"a": 1, "a": 2}',
        b'{"a": 7}',
    ]
    rows = found(write(tmp_path, "rows.jsonl", b"\n".join(lines)))
    assert [line for line, _ in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert rows[0][1] == {"a": 1} and rows[-1][1] == {"a": 7}
    wrong = [what for _, what in rows[1:-1]]
    for what, said in zip(
        wrong, ["is not JSON", "not an object", "is not UTF-8", "NUL", "given twice"], strict=True
    ):
        assert said in what


def test_a_line_that_is_too_long_is_told_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST", 16)
    path = write(tmp_path, "rows.jsonl", '{"a": "' + "x" * 100 + '"}\n{"a": 2}\n')
    assert found(path) == [(1, "is longer than 16 bytes"), (2, {"a": 2})]


def test_json_objects_are_placed_by_the_line_they_start_on(tmp_path):
    path = write(tmp_path, "rows.json", '[\n  {"a": 1},\n\n  {\n   "a": 2\n  }, {"a": 3}\n]\n')
    assert found(path) == [(2, {"a": 1}), (4, {"a": 2}), (6, {"a": 3})]


def test_json_elements_that_are_wrong_do_not_hide_the_others(tmp_path):
    rows = found(write(tmp_path, "rows.json", '[1,\n{"a": 1, "a": 2},\n{"a": NaN},\n{"a": 3}]'))
    assert [line for line, _ in rows] == [1, 2, 3, 4]
    assert rows[3][1] == {"a": 3}
    assert all(isinstance(what, str) for _, what in rows[:3])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"a": 1},\n{"a" 2}]', 2),
        ('[{"a": 1}\n{"a": 2}]', 2),
        ('[{"a": 1},\n]', 2),
        ('[{"a": 1}', 1),
        ("[]\nx", 2),
    ],
)
def test_json_that_breaks_off_is_told_where(tmp_path, text, line):
    *_, last = found(write(tmp_path, "rows.json", text))
    assert last[0] == line
    assert "is not JSON from here on" in str(last[1])


def test_json_nested_without_end_is_told(tmp_path):
    rows = found(write(tmp_path, "rows.json", "[" + "[" * 100_000))
    assert rows == [(1, "is nested deeper than 64 levels")]


def test_csv_rows_are_placed_by_the_line_they_start_on_though_quotes_hold_line_ends(tmp_path):
    path = write(tmp_path, "rows.csv", '\ufeffa, b\n1,"x\ny\nz"\n\n,\n2,w\n')
    assert found(path) == [(2, {"a": "1", "b": "x\ny\nz"}), (7, {"a": "2", "b": "w"})]


def test_wrong_rows_of_csv_are_told_and_the_right_ones_are_read(tmp_path):
    content = b'a,b\n1,2\n1,2,3\n\xe9,2\n"x\0\ny",2\n3,4\n5,"6\n'
    rows = found(write(tmp_path, "rows.csv", content))
    assert [line for line, _ in rows] == [2, 3, 4, 5, 7, 8]
    assert rows[0][1] == {"a": "1", "b": "2"} and rows[4][1] == {"a": "3", "b": "4"}
    wrong = [str(what) for _, what in (rows[1], rows[2], rows[3], rows[5])]
    for what, said in zip(
        wrong, ["has 3 fields", "is not UTF-8", "NUL", "is not CSV from here on"], strict=True
    ):
        assert said in what


def test_a_csv_whose_first_line_cannot_be_read_has_no_columns_to_read_rows_by(tmp_path):
    (row,) = found(write(tmp_path, "rows.csv", b"a,\xe9\n1,2\n3,4\n"))
    assert row == (1, "is not UTF-8 (byte 2 is 0xe9)")


def test_a_csv_text_beyond_the_csv_modules_limit_points_to_jsonl(tmp_path):
    path = write(tmp_path, "rows.csv", "a,b\n1," + "x" * (csv.field_size_limit() + 1) + "\n")
    (problem,) = tables.rows(path)
    assert isinstance(problem, Problem) and problem.where.endswith(":2") and ".jsonl" in problem.hint


# --------------------------------------------------------------------------------------------- the file as a whole


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", "\n \n", "has no rows"),
        ("rows.json", "[]", "has no rows"),
        ("rows.json", "", "has no rows"),
        ("rows.csv", "a,b\n", "has no rows"),
        ("rows.txt", " \n", "has no rows"),
        ("rows.xlsx", "x", "is no data file"),
        ("rows.json", '{"a": 1}', "not an array"),
        ("rows.json", b"\xff\xfe[\0", "NUL"),
        ("rows.txt", b"caf\xe9", "is not UTF-8 (byte 3 is 0xe9)"),
        ("rows.csv", "a,a\n1,2\n", "names the column `a` twice"),
        ("rows.csv", "a,\n1,2\n", "without a name"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(tmp_path, name, content, said):
    problem = refusal(write(tmp_path, name, content))
    assert name in problem.where and said in problem.what


def test_a_file_too_large_to_read_at_once_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LARGEST", 8)
    assert "9 bytes long; at most 8" in refusal(write(tmp_path, "a.txt", "123456789")).what


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert refusal(tmp_path / "none.jsonl").what == "does not exist"
