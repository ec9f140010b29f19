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
- Roles: system at most once and first, then user and assistant in turn, tools' answers between two of the assistant's
  messages, the assistant last; at least one message is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeGuard

import attrs

from runtime.data.samples import ROLES, Message, Role, Sample, Text
from runtime.data.tables import Row
from runtime.errors import Problem

Columns = Mapping[str, str]
"""A shape's column -> what the file calls it."""

Wrongs = list[tuple[str, str]]
"""What is wrong with a row, and a hint; where is the row's place."""

SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""ShareGPT's `from` -> role."""

FOLLOWS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Which roles may follow one; None is the start."""


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
    has = ", ".join(f"`{column}`" for column in row.values) or "none"
    if found:
        what = f"its columns admit several shapes: {', '.join(found)} (columns: {has})"
        return Problem(row.where, what, f'say which one: shape="{found[0]}"')
    wanted = "; ".join(f"{name} ({', '.join(shape.required)})" for name, shape in SHAPES.items())
    hint = 'map the columns to a shape\'s: shape="alpaca", columns={"instruction": "question", "output": "answer"}'
    return Problem(row.where, f"its columns are no shape's: {has}; the shapes are {wanted}", hint)


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
            _check_turns(built, wrongs)
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
    messages = _messages(values[name], name, wrongs, ("from", "value"), SPEAKERS)
    if system.strip() and messages and messages[0].role == "system":
        wrongs.append(
            (f"has a system message in `{columns.get('system', 'system')}` and in `{name}`", "keep one")
        )
    return [*_system(system), *messages]


def _chat(values: Mapping[str, Any], columns: Columns, wrongs: Wrongs) -> list[Message]:
    name = columns.get("messages", "messages")
    return _messages(values[name], name, wrongs)


def _prompt_completion(values: Mapping[str, Any], columns: Columns, wrongs: Wrongs) -> list[Message]:
    found: list[Message] = []
    sides: tuple[tuple[str, Role], ...] = (("prompt", "user"), ("completion", "assistant"))
    for column, role in sides:
        name = columns.get(column, column)
        is_trained = column == "completion"
        if isinstance(values[name], list):
            messages = _messages(values[name], name, wrongs)
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
    return _text(value, f"`{name}`", wrongs, may_be_empty=optional, wanted=wanted)


def _text(value: Any, name: str, wrongs: Wrongs, *, may_be_empty: bool = False, wanted: str = "text") -> str:
    if not isinstance(value, str):
        wrongs.append((f"{name} must be {wanted}, got {_kind(value)}", ""))
    elif "\0" in value:
        wrongs.append((f"{name} has a NUL character", "remove it"))
    elif not value.strip() and not may_be_empty:
        wrongs.append((f"{name} is empty", "fill it in, or remove the row"))
    else:
        return value
    return ""


def _system(text: str) -> list[Message]:
    return [Message("system", text, False)] if text.strip() else []


def _messages(
    value: Any,
    name: str,
    wrongs: Wrongs,
    keys: tuple[str, str] = ("role", "content"),
    roles: Mapping[str, Role] | None = None,
) -> list[Message]:
    """The messages of a list of objects; each one that is wrong is told and left out."""
    roles = roles or {role: role for role in ROLES}
    who, what = keys
    shown = f"[{{{who}, {what}}}, …]"
    if not isinstance(value, list):
        hint = "save the set as .jsonl, which can hold lists" if isinstance(value, str) else ""
        wrongs.append((f"`{name}` must be a list of messages {shown}, got {_kind(value)}", hint))
        return []
    if not value:
        wrongs.append((f"`{name}` has no messages", "remove the row"))
    messages = []
    for index, item in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(item, dict):
            wrongs.append((f"`{place}` must be an object {{{who}, {what}}}, got {_kind(item)}", ""))
            continue
        before = len(wrongs)
        given = {key: part for key, part in item.items() if part is not None}
        _check_keys(given, place, keys, wrongs)
        role = given.get(who)
        if who in given and not _is_in(role, roles):
            got = repr(role) if isinstance(role, str) else _kind(role)
            wrongs.append((f"`{place}.{who}` must be one of {', '.join(roles)}, got {got}", ""))
        is_said_by_assistant = _is_in(role, roles) and roles[role] == "assistant"
        text = ""
        if what in given:
            text = _content(given[what], f"{place}.{what}", wrongs, may_be_empty=is_said_by_assistant)
        weight = given.get("weight", 1)
        if isinstance(weight, bool) or weight not in (0, 1):
            wrongs.append((f"`{place}.weight` must be 0 or 1, got {weight!r}", ""))
        if len(wrongs) == before and _is_in(role, roles):
            is_trained = is_said_by_assistant and weight == 1 and bool(text.strip())
            messages.append(Message(roles[role], text, is_trained))
    return messages


def _is_in(value: Any, roles: Collection[str]) -> TypeGuard[str]:
    return isinstance(value, str) and value in roles


def _check_keys(given: Mapping[str, Any], place: str, keys: tuple[str, str], wrongs: Wrongs) -> None:
    """Keys that a message lacks or that would be passed over in silence."""
    missing = [key for key in keys if key not in given]
    if missing and keys == ("from", "value") and {"role", "content"} <= set(given):
        hint = 'it is of the other shape: shape="messages", columns={"messages": "conversations"}'
    elif missing and keys == ("role", "content") and {"from", "value"} <= set(given):
        hint = 'it is of the other shape: shape="sharegpt", columns={"conversations": "messages"}'
    else:
        hint = ""
    wrongs += [(f"`{place}` has no `{key}`", hint) for key in missing]
    for key in given:
        if key not in (*keys, "weight") and not hint:
            what = f"`{place}` has a key `{key}`, which lorac does not read"
            wrongs.append(
                (what, f"remove `{key}`; a message is {{{', '.join(keys)}}}, weight 0 or 1 besides")
            )


def _content(value: Any, place: str, wrongs: Wrongs, *, may_be_empty: bool) -> str:
    """A message's text: text, or the parts {type: "text", text} joined."""
    if not isinstance(value, list):
        return _text(value, f"`{place}`", wrongs, may_be_empty=may_be_empty)
    texts = []
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or set(part) != {"type", "text"}:
            kind = f"type {part['type']!r}" if isinstance(part, dict) and "type" in part else _kind(part)
            wrongs.append((f'`{place}[{index}]` must be {{type: "text", text}}, got {kind}', ""))
        else:
            texts.append(_text(part["text"], f"`{place}[{index}].text`", wrongs, may_be_empty=True))
    joined = "".join(texts)
    return (
        joined if len(texts) < len(value) else _text(joined, f"`{place}`", wrongs, may_be_empty=may_be_empty)
    )


def _check_turns(messages: Iterable[Message], wrongs: Wrongs) -> None:
    """The rules about roles, over a conversation whose messages are each right."""
    before: Role | None = None
    is_learned_from = False
    for number, message in enumerate(messages, start=1):
        if message.role not in FOLLOWS[before]:
            after = f"follows {before}'s" if before else "comes first"
            what = f"message {number} is {message.role}'s and {after}; {' or '.join(FOLLOWS[before])} is wanted there"
            wrongs.append((what, "make user and assistant take turns, the system's message first"))
        before = message.role
        is_learned_from = is_learned_from or message.trained
    if before != "assistant":
        wrongs.append(
            (f"the last message is {before}'s; the assistant's is wanted", "end with the answer to learn")
        )
    if not is_learned_from:
        wrongs.append(("no message of the assistant's is to be learned: all are empty or have weight 0", ""))


def _kind(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}"
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
