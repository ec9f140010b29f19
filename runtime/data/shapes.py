"""From a row of a data file to a sample: a closed set of shapes, each by the columns that it is known by.

| shape | columns |
| --- | --- |
| alpaca | instruction, output [, input, system] |
| sharegpt | conversations: [{from, value}, …] [, system] |
| messages | messages: [{role, content}, …] |
| prompt_completion | prompt, completion: each text, or a list as in messages |
| text | text |

- alpaca: the user says instruction, a blank line, input; where input is empty, instruction alone. The assistant
  says output.
- messages: content may be a list of {type: "text", text}, which are joined.
- prompt_completion: text becomes a turn, the user's and the assistant's; only the completion is trained.
- text: plain text, trained as a whole.
- Sources: Stanford Alpaca's data_release, FastChat's ShareGPT files, OpenAI's chat fine-tuning files, TRL's dataset
  formats (without its chat-less reading of prompt and completion: text becomes a turn).
- Texts are taken as they are, not stripped. The assistant's messages are trained, but for empty ones and those with
  `weight: 0`.
- Which messages may follow which is in `turns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from runtime.data import turns
from runtime.data.samples import Message, Role, Sample, Text
from runtime.data.tables import Row
from runtime.data.turns import Wrongs
from runtime.errors import Problem

Columns = Mapping[str, str]
"""A shape's column -> what the file calls it."""


@attrs.frozen
class Shape:
    """The columns a shape is known by, those that it reads where they are there, and how its rows become samples."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[[Mapping[str, Any], Columns, Wrongs], list[Message] | str]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.required + self.optional


# ----------------------------------------------------------------------------------------------------------- reading


def detect(row: Row, columns: Columns | None = None) -> str | Problem:
    """The one shape whose columns a row has, under the names that `columns` gives; a problem if none or several."""
    columns = columns or {}
    able = {name: shape for name, shape in SHAPES.items() if set(columns) <= set(shape.columns)}
    found = [
        name for name, shape in able.items() if all(columns.get(c, c) in row.values for c in shape.required)
    ]
    if len(found) == 1:
        return found[0]
    if not able:
        named = ", ".join(f"`{column}`" for column in columns)
        return Problem("columns", f"no shape has the columns {named}", f"the shapes are {_shapes()}")
    has = ", ".join(f"`{column}`" for column in row.values) or "none"
    if found:
        what = f"its columns admit several shapes: {', '.join(found)} (columns: {has})"
        return Problem(row.where, what, f'say which one: shape="{found[0]}"')
    hint = 'map the columns to a shape\'s: shape="alpaca", columns={"instruction": "question", "output": "answer"}'
    return Problem(row.where, f"its columns are no shape's: {has}; the shapes are {_shapes()}", hint)


def wrong_columns(shape: str, columns: Columns, where: str = "columns") -> list[Problem]:
    """What is wrong with a shape's name and a mapping of its columns, before any file is read."""
    if shape not in SHAPES:
        return [Problem(where, f"there is no shape {shape!r}", f"use one of {', '.join(SHAPES)}")]
    known = SHAPES[shape].columns
    problems = [
        Problem(where, f"shape {shape} has no column {column!r}", f"its columns are {', '.join(known)}")
        for column in columns
        if column not in known
    ]
    taken: dict[str, str] = {}
    for column in known:
        name = columns.get(column, column)
        if name in taken and (column in columns or column in SHAPES[shape].required):
            what = f"`{taken[name]}` and `{column}` are both read from the file's `{name}`"
            problems.append(Problem(where, what, "give each its own column"))
        taken.setdefault(name, column)
    return problems


def sample(row: Row, shape: str, columns: Columns | None = None) -> Sample | Text | list[Problem]:
    """A row as a sample, or everything that is wrong with it. `columns` passed `wrong_columns`."""
    columns = columns or {}
    rule = SHAPES[shape]
    wrongs: Wrongs = []
    for column in rule.required + tuple(column for column in rule.optional if column in columns):
        name = columns.get(column, column)
        if name not in row.values:
            has = ", ".join(f"`{found}`" for found in row.values) or "none"
            hint = f'say how the file calls it: columns={{"{column}": "…"}}' if column == name else ""
            wrongs.append((f"has no column `{name}`, which shape {shape} reads; its columns are {has}", hint))
    if not wrongs:
        built = rule.build(row.values, columns, wrongs)
        if isinstance(built, list) and not wrongs:
            turns.check(built, wrongs)
    if wrongs:
        return [Problem(row.where, what, hint) for what, hint in wrongs]
    return Text(built, row.where) if isinstance(built, str) else Sample(tuple(built), row.where)


# ------------------------------------------------------------------------------------------------------------ shapes


def _alpaca(values: Mapping[str, Any], columns: Columns, wrongs: Wrongs) -> list[Message]:
    instruction, output, more, system = (
        _column(values, columns, column, wrongs, optional=column in ("input", "system"))
        for column in ("instruction", "output", "input", "system")
    )
    asked = f"{instruction}\n\n{more}" if more.strip() else instruction
    return [*_system(system), Message("user", asked, False), Message("assistant", output, True)]


def _sharegpt(values: Mapping[str, Any], columns: Columns, wrongs: Wrongs) -> list[Message]:
    system = _column(values, columns, "system", wrongs, optional=True)
    name = columns.get("conversations", "conversations")
    messages = turns.read(values[name], name, wrongs, ("from", "value"), turns.SPEAKERS)
    if system.strip() and messages and messages[0].role == "system":
        wrongs.append(
            (f"has a system message in `{columns.get('system', 'system')}` and in `{name}`", "keep one")
        )
    return [*_system(system), *messages]


def _chat(values: Mapping[str, Any], columns: Columns, wrongs: Wrongs) -> list[Message]:
    name = columns.get("messages", "messages")
    return turns.read(values[name], name, wrongs)


def _prompt_completion(values: Mapping[str, Any], columns: Columns, wrongs: Wrongs) -> list[Message]:
    found: list[Message] = []
    sides: tuple[tuple[str, Role], ...] = (("prompt", "user"), ("completion", "assistant"))
    for column, role in sides:
        name = columns.get(column, column)
        is_trained = column == "completion"
        if isinstance(values[name], list):
            messages = turns.read(values[name], name, wrongs)
            found += messages if is_trained else [attrs.evolve(m, trained=False) for m in messages]
        else:
            text = _column(values, columns, column, wrongs, wanted="text or a list of messages")
            found.append(Message(role, text, is_trained))
    return found


def _plain(values: Mapping[str, Any], columns: Columns, wrongs: Wrongs) -> str:
    return _column(values, columns, "text", wrongs)


SHAPES: dict[str, Shape] = {
    "alpaca": Shape(("instruction", "output"), ("input", "system"), _alpaca),
    "sharegpt": Shape(("conversations",), ("system",), _sharegpt),
    "messages": Shape(("messages",), (), _chat),
    "prompt_completion": Shape(("prompt", "completion"), (), _prompt_completion),
    "text": Shape(("text",), (), _plain),
}
"""The closed registry."""


# ------------------------------------------------------------------------------------------------------------- parts


def _shapes() -> str:
    return "; ".join(f"{name} ({', '.join(shape.required)})" for name, shape in SHAPES.items())


def _column(
    values: Mapping[str, Any],
    columns: Columns,
    column: str,
    wrongs: Wrongs,
    *,
    optional: bool = False,
    wanted: str = "text",
) -> str:
    """A column's text; "" with a word on what is wrong. An optional one may be missing, null or empty."""
    name = columns.get(column, column)
    value = values.get(name)
    if optional and value is None:
        return ""
    return turns.text_of(value, f"`{name}`", wrongs, may_be_empty=optional, wanted=wanted)


def _system(text: str) -> list[Message]:
    return [Message("system", text, False)] if text.strip() else []
