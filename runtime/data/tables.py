"""Rows of a data file as dicts, each with its place, one after the other.

| suffix | rows | place |
| --- | --- | --- |
| .jsonl, .ndjson | an object a line | file:line |
| .json | an array of objects | file:line on which the object starts |
| .csv | the first line names the columns; every value is text | file:line on which the row starts |
| .parquet | needs pyarrow, the optional extra `parquet` | file:row, counted from 1 |
| .txt, .md | the whole file is one row with the column `text` | file:1 |

- Strict UTF-8, whatever the locale; a byte order mark at the start and blank lines are passed over, any line end is
  taken as it comes.
- What is wrong with one row is a Problem in its place, and the reading goes on: all are found at once. What is wrong
  with the file as a whole is raised.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from runtime.errors import InputError, MachineError, Problem
from runtime.safeio import paths, strict_json

LONGEST = 64 * 2**20
"""Bytes of one line: a row is some kB, a book about a megabyte."""

LARGEST = 2**30
"""Bytes of a file that is read in one piece (.json, .txt, .md)."""

IMAGE_COLUMNS = ("image", "file_name")
TEXT_COLUMNS = ("prompt", "text", "caption")
"""What the columns of a picture and of its caption may be called in a table of captions."""

BOM = b"\xef\xbb\xbf"
SPLIT = "split the file, or save it as .jsonl, which is read line by line"
AS_UTF8 = "save it as UTF-8"
MEND = "mend the file, or save it as .jsonl"
ONE_A_LINE = 'write one object a line: {"instruction": "…", "output": "…"}'
SPACE = re.compile(r"[ \t\r\n]*")


@attrs.frozen
class Row:
    """One row: column -> value as it was read, and its place, file:line."""

    values: Mapping[str, Any]
    where: str


Found = Iterator[Row | Problem]


def rows(path: Path) -> Found:
    """The rows of a file by its suffix, and in their places what is wrong with single ones.

    Raises InputError for what is no such file, cannot be opened or has no rows; MachineError where pyarrow is missing.
    """
    reader = READERS.get(path.suffix.lower())
    where = paths.display(path)
    if reader is None:
        what = f"is no data file that lorac reads: {', '.join(READERS)}"
        raise InputError(Problem(where, what, "save the set as .jsonl, one object a line"))
    is_empty = True
    with paths.open_file(path) as file:
        for found in reader(file, where):
            is_empty = False
            yield found
    if is_empty:
        raise InputError(Problem(where, "has no rows", "put at least one row in it, or leave the file out"))


# ----------------------------------------------------------------------------------------------------------- formats


def _jsonl_rows(file: io.BufferedReader, where: str) -> Found:
    for number, line in _lines(file):
        place = f"{where}:{number}"
        if isinstance(line, bytes) and not line.strip():
            continue
        text = line if isinstance(line, Problem) else _decoded(line)
        if isinstance(text, Problem):
            yield attrs.evolve(text, where=place)
        else:
            yield _object(text, place, ONE_A_LINE)


def _json_rows(file: io.BufferedReader, where: str) -> Found:
    """The elements of the one array, each read by itself, so that one that is wrong does not hide the others."""
    text = _whole(file, where)
    decoder = json.JSONDecoder(
        parse_int=str, parse_float=str
    )  # finds where an element ends; strict_json reads it
    at = _past_space(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        what = "is JSON, but not an array of objects" if text[at] == "{" else "is not a JSON array"
        raise InputError(
            Problem(where, what, "write [{…}, {…}], or name it .jsonl if it has an object a line")
        )
    at = _past_space(text, at + 1)
    line, counted = 1, 0
    has_more = text[at : at + 1] != "]"
    while has_more:
        line, counted = line + text.count("\n", counted, at), at
        place = f"{where}:{line}"
        try:
            _, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as fault:
            what = f"is not JSON from here on: {fault.msg.lower()} (column {fault.colno})"
            yield Problem(f"{where}:{fault.lineno}", what, MEND)
            return
        except RecursionError:
            yield Problem(place, f"is nested deeper than {strict_json.DEPTH} levels")
            return
        yield _object(text[at:end], place, 'write [{"instruction": "…", "output": "…"}, …]')
        at = _past_space(text, end)
        has_more = text[at : at + 1] == ","
        at = _past_space(text, at + 1) if has_more else at
    if text[at : at + 1] == "]":
        at = _past_space(text, at + 1)
        if at == len(text):
            return
    what = "is not JSON from here on: elements are parted by `,`, and one `]` ends the file"
    yield Problem(f"{where}:{text.count(chr(10), 0, at) + 1}", what, MEND)


def _csv_rows(file: io.BufferedReader, where: str) -> Found:
    wrong: list[Problem] = []

    def text_lines() -> Iterator[str]:
        """Lines for the csv module, which must see every one: a wrong one is put down in `wrong` instead."""
        for number, line in _lines(file):
            text = line if isinstance(line, Problem) else _decoded(line)
            if isinstance(text, Problem):
                wrong.append(attrs.evolve(text, where=f"{where}:{number}"))
                text = line.decode("utf-8", errors="replace") if isinstance(line, bytes) else "\n"
            yield text

    reader = csv.reader(text_lines(), strict=True)
    columns: list[str] | None = None
    line = 1
    try:
        for fields in reader:
            start, line = line, reader.line_num + 1
            if wrong:
                yield from wrong
                if columns is None:
                    return
                wrong.clear()
            elif not any(field.strip() for field in fields):
                continue
            elif columns is None:
                columns = _columns(fields, f"{where}:{start}")
            elif len(fields) != len(columns):
                what = f"has {len(fields)} fields, but the first line names {len(columns)} columns"
                yield Problem(f"{where}:{start}", what, 'put texts with commas in quotes: "a, b"')
            else:
                yield Row(dict(zip(columns, fields, strict=True)), f"{where}:{start}")
    except csv.Error as error:
        yield from wrong
        hint = "close each quote; write a quote inside a text twice"
        if "field limit" in str(error):
            hint = "save the set as .jsonl, which takes texts of any length"
        yield Problem(f"{where}:{line}", f"is not CSV from here on: {error}", hint)


def _columns(fields: list[str], place: str) -> list[str]:
    """The names in the first line. Raises InputError where one is empty or given twice."""
    columns = [field.strip() for field in fields]
    for column in columns:
        if not column or columns.count(column) > 1:
            what = f"names the column `{column}` twice" if column else "has a column without a name"
            raise InputError(Problem(place, what, "give each column its own name in the first line"))
    return columns


def _parquet_rows(file: io.BufferedReader, where: str) -> Found:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        hint = "pip install -c constraints.txt -e '.[parquet]', or save the set as .jsonl"
        raise MachineError(Problem("pyarrow", f"is not installed, and {where} needs it", hint)) from None
    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(values, f"{where}:{number}")
    except (ArrowException, OSError, ValueError) as error:
        what = f"is not a whole Parquet file (after row {number:,}): {str(error).splitlines()[0]}"
        yield Problem(where, what, "copy the file anew, or save the set as .jsonl")


def _text_rows(file: io.BufferedReader, where: str) -> Found:
    text = _whole(file, where)
    if text.strip():
        yield Row({"text": text}, f"{where}:1")


READERS: dict[str, Callable[[io.BufferedReader, str], Found]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
    ".md": _text_rows,
}
"""Suffix -> how its rows are read."""


# ------------------------------------------------------------------------------------------------------------- bytes


def _lines(file: io.BufferedReader) -> Iterator[tuple[int, bytes | Problem]]:
    """Lines with their numbers from 1, ends included; in the place of one that is too long, a Problem."""
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        if len(line) > LONGEST:
            part = line
            while part and not part.endswith(b"\n"):
                part = file.readline(LONGEST)
            yield number, Problem("", f"is longer than {LONGEST:,} bytes", "cut the text in several rows")
        else:
            yield number, line


def _whole(file: io.BufferedReader, where: str) -> str:
    """A whole file's text. Raises InputError."""
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        raise InputError(
            Problem(where, f"is {size:,} bytes long; at most {LARGEST:,} are read at once", SPLIT)
        )
    text = _decoded(file.read(LARGEST + 1).removeprefix(BOM))
    if isinstance(text, Problem):
        raise InputError(attrs.evolve(text, where=where))
    return text


def _decoded(data: bytes) -> str | Problem:
    """Strict UTF-8 without NUL, or what is wrong with it; the caller says where."""
    if (nul := data.find(b"\0")) >= 0:
        return Problem("", f"has a NUL (byte {nul}): it is UTF-16, or no text", AS_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Problem("", f"is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x})", AS_UTF8)


def _object(text: str, place: str, hint: str) -> Row | Problem:
    try:
        value = strict_json.loads(text, place)
    except InputError as error:
        return Problem(place, error.problems[0].what, hint)
    if not isinstance(value, dict):
        return Problem(place, "is JSON, but not an object", hint)
    return Row(value, place)


def _past_space(text: str, at: int) -> int:
    """The next place that is not white space, as JSON has it."""
    found = SPACE.match(text, at)
    return found.end() if found else at
