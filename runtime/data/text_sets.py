"""A text data set, read from its file and locked: every sample in its neutral form, with what pins it down.

- `sha256` is over the file's bytes and says at once whether it changed; `digest` is over what the samples say, in
  their order, and so the same for the same set as .jsonl and as .csv.
- Everything wrong is found in one reading and raised at once.
- No reading holds a file's samples: 32 bytes of each are kept while it is read, to count those that say the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import attrs
import numpy as np

from runtime.data import samples, shapes, tables
from runtime.data.samples import Sample, Text
from runtime.errors import SHOWN, InputError, Problem, SpecError, visible
from runtime.safeio import digest

AUTO = "auto"
"""The shape is the one that the first row's columns admit."""

ROWS_SHOWN = 20
"""How many problems of a data set are kept and printed; the rest are counted."""


@attrs.frozen(kw_only=True)
class TextSet:
    """A locked set, without its samples, which `each` reads: `first` is the first of `count`.

    `unread` are the columns that the shape reads nothing from; `repeated` counts exact duplicates.
    """

    shape: str
    first: Sample | Text
    count: int
    sha256: str
    digest: str
    unread: tuple[str, ...]
    repeated: int


class WrongRows(InputError):
    """Rows that cannot be trained on: the first ROWS_SHOWN problems, and how many `more` there are."""

    def __init__(self, problems: Sequence[Problem], more: int) -> None:
        super().__init__(problems)
        self.more = more

    def lines(self) -> list[str]:
        """As LoracError's, but with all problems that were kept: a data set has many, and of many kinds."""
        lines = [f"error: {problem}" for problem in self.problems]
        if self.more:
            lines[-1] += f"      (+ {self.more:,} more)"
        hints = dict.fromkeys(visible(problem.hint) for problem in self.problems if problem.hint)
        return lines + [f"hint: {hint}" for hint in list(hints)[:SHOWN]]


def read(
    path: Path, shape: str = AUTO, columns: shapes.Columns | None = None, max_samples: int = 0
) -> TextSet:
    """Read and lock one file, or its first `max_samples` rows. `columns` maps the shape's columns to what the file
    calls them.

    Raises SpecError for a shape or mapping that cannot be, WrongRows with all rows' problems, InputError for the file.
    """
    columns = dict(columns or {})
    if shape != AUTO and (problems := shapes.wrong_columns(shape, columns)):
        raise SpecError(problems)
    sha256 = digest.sha256_file(path)
    first: Sample | Text | None = None
    count, whole, contents = 0, hashlib.sha256(), bytearray()
    wrong: list[Problem] = []
    more = 0
    seen: dict[str, None] = {}
    for row in _rows(path, max_samples):
        result: Sample | Text | list[Problem]
        if isinstance(row, Problem):
            result = [row]
        else:
            seen.update(dict.fromkeys(row.values))
            if shape == AUTO:
                detected = shapes.detect(row, columns)
                if isinstance(detected, Problem):
                    raise WrongRows([*wrong, detected], more)
                if problems := shapes.wrong_columns(detected, columns):
                    raise SpecError(problems)
                shape = detected
            result = shapes.sample(row, shape, columns)
        if not isinstance(result, list):
            first = first or result
            count += 1
            whole.update(samples.digest(result).encode() + b"\n")
            contents += bytes.fromhex(samples.content_digest(result))
            continue
        room = ROWS_SHOWN - len(wrong)
        wrong += result[:room]
        more += len(result[room:])
    if wrong:
        raise WrongRows(wrong, more)
    assert first is not None, "a file without rows was refused"
    read_from = {columns.get(column, column) for column in shapes.SHAPES[shape].columns}
    return TextSet(
        shape=shape,
        first=first,
        count=count,
        sha256=sha256,
        digest=whole.hexdigest(),
        unread=tuple(column for column in seen if column not in read_from),
        repeated=count - len(np.unique(np.frombuffer(contents, dtype="V32"))),
    )


def each(path: Path, shape: str, columns: shapes.Columns, max_samples: int = 0) -> Iterator[Sample | Text]:
    """The samples of a file that was read before, one by one. Raises WrongRows where it is no longer the same."""
    for row in _rows(path, max_samples):
        result = [row] if isinstance(row, Problem) else shapes.sample(row, shape, columns)
        if isinstance(result, list):
            raise WrongRows(result, 0)
        yield result


def _rows(path: Path, max_samples: int) -> Iterator[tables.Row | Problem]:
    """The file's first rows, or with 0 all: those after them are not looked at."""
    return islice(tables.rows(path), max_samples or None)
