"""Rows of a metadata.csv (`image,prompt` or `file_name,text`) or metadata.jsonl (the same as keys).

- Strict UTF-8, whatever the locale; a byte order mark and any line ends are taken as they come.
- What is wrong with one row is collected, what is wrong with the file as a whole is raised.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from runtime.data.tables import IMAGE_COLUMNS, TEXT_COLUMNS
from runtime.errors import InputError, Problem
from runtime.safeio import paths, strict_json, texts

WANTED = "an image column (image or file_name) and a caption column (prompt, text or caption)"
EXAMPLE = '{"file_name": "0001.jpg", "text": "a caption"}'
LARGEST = 2**30
"""Bytes of a metadata file: some millions of rows."""


@attrs.frozen
class Row:
    """A picture's row: its path and caption as written, and where the row is (file:line)."""

    image: str
    caption: str
    where: str


def read(path: Path) -> tuple[list[Row], list[Problem]]:
    """A .csv or .jsonl file's rows, and what is wrong with single ones. Raises InputError for the whole."""
    with paths.open_file(path) as file:
        data = file.read(LARGEST + 1)
    where = paths.display(path)
    if len(data) > LARGEST:
        raise InputError(Problem(where, f"is larger than {LARGEST:,} bytes", "split the data set"))
    text = texts.decode(data, path)
    rows_of = _csv_rows if path.suffix.lower() == ".csv" else _jsonl_rows
    rows: list[Row] = []
    problems: list[Problem] = []
    for found in rows_of(text, where):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            rows.append(found)
    if not rows and not problems:
        raise InputError(Problem(where, "has no rows", f"give each picture a row with {WANTED}"))
    return rows, problems


def _csv_rows(text: str, where: str) -> Iterator[Row | Problem]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    image = caption = 0
    line = 1
    try:
        for fields in reader:
            start, line = line, reader.line_num + 1
            if not any(field.strip() for field in fields):
                continue
            if columns is None:
                columns = [field.strip().lower() for field in fields]
                image, caption = _columns(columns, where)
            elif len(fields) != len(columns):
                what = f"has {len(fields)} fields, but the first line names {len(columns)} columns"
                yield Problem(f"{where}:{start}", what, 'put captions with commas in quotes: "a, b"')
            else:
                yield Row(fields[image].strip(), fields[caption], f"{where}:{start}")
    except csv.Error as error:
        what = f"is not CSV from here on: {error}"
        yield Problem(f"{where}:{line}", what, "close each quote; write a quote inside a caption twice")


def _columns(columns: list[str], where: str) -> tuple[int, int]:
    """The places of the image's and the caption's column. Raises InputError."""
    found = ", ".join(f"`{column}`" for column in columns)
    images = [at for at, column in enumerate(columns) if column in IMAGE_COLUMNS]
    captions = [at for at, column in enumerate(columns) if column in TEXT_COLUMNS]
    if len(images) == 1 and len(captions) == 1:
        return images[0], captions[0]
    what = f"wants {WANTED}, got {found}"
    hint = "name the columns in the first line: image,prompt"
    if len(columns) == 1 and re.search(r"[;\t]", columns[0]):
        hint = "separate the columns by commas"
    elif len(images) > 1 or len(captions) > 1:
        hint = "keep one column of each kind"
    raise InputError(Problem(f"{where}:1", what, hint))


def _jsonl_rows(text: str, where: str) -> Iterator[Row | Problem]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _jsonl_row(line, f"{where}:{number}")


def _jsonl_row(line: str, where: str) -> Row | Problem:
    try:
        value = strict_json.loads(line, where)
    except InputError as error:
        return Problem(where, error.problems[0].what, f"write one object a line: {EXAMPLE}")
    if not isinstance(value, dict):
        return Problem(where, "is JSON, but not an object", f"write one object a line: {EXAMPLE}")
    return _row_of(value, where)


def _row_of(value: Mapping[str, object], where: str) -> Row | Problem:
    images = [key for key in IMAGE_COLUMNS if key in value]
    captions = [key for key in TEXT_COLUMNS if key in value]
    if len(images) != 1 or len(captions) != 1:
        found = ", ".join(f"`{key}`" for key in value) or "no keys"
        wanted = "wants one of file_name, image and one of text, prompt, caption"
        return Problem(where, f"{wanted}, got {found}", f"write {EXAMPLE}")
    image, caption = value[images[0]], value[captions[0]]
    for key, item in ((images[0], image), (captions[0], caption)):
        if not isinstance(item, str):
            return Problem(
                where, f"`{key}` must be text, got {type(item).__name__}", f"put `{key}` in quotes"
            )
    return Row(str(image).strip(), str(caption), where)
