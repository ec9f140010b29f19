"""A text data set, read from its file and locked: every sample in its neutral form, with what pins it down.

- `sha256` is over the file's bytes and says at once whether it changed; `digest` is over what the samples say, in
  their order, and so the same for the same set as .jsonl and as .csv.
- Everything wrong is found in one reading and raised at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import attrs

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
    """A locked set. `unread` are the columns that the shape reads nothing from; `repeated` counts exact duplicates."""

    shape: str
    samples: tuple[Sample | Text, ...]
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


def read(path: Path, shape: str = AUTO, columns: shapes.Columns | None = None) -> TextSet:
    """Read and lock one file. `columns` maps the shape's columns to what the file calls them.

    Raises SpecError for a shape or mapping that cannot be, WrongRows with all rows' problems, InputError for the file.
    """
    columns = dict(columns or {})
    if shape != AUTO and (problems := shapes.wrong_columns(shape, columns)):
        raise SpecError(problems)
    sha256 = digest.sha256_file(path)
    found: list[Sample | Text] = []
    wrong: list[Problem] = []
    more = 0
    seen: dict[str, None] = {}
    for row in tables.rows(path):
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
            found.append(result)
            continue
        room = ROWS_SHOWN - len(wrong)
        wrong += result[:room]
        more += len(result[room:])
    if wrong:
        raise WrongRows(wrong, more)
    read_from = {columns.get(column, column) for column in shapes.SHAPES[shape].columns}
    return TextSet(
        shape=shape,
        samples=tuple(found),
        sha256=sha256,
        digest=_digest(found),
        unread=tuple(column for column in seen if column not in read_from),
        repeated=len(found) - len({samples.content_digest(sample) for sample in found}),
    )


def _digest(found: Sequence[Sample | Text]) -> str:
    """sha256 over the samples' digests, a line each, in their order."""
    whole = hashlib.sha256()
    for sample in found:
        whole.update(samples.digest(sample).encode() + b"\n")
    return whole.hexdigest()
