"""A draft as the text of a spec, by jinja2: every value by its `repr`, all else as one line of a comment.

Nothing that a config says can become code: the template has no other way to write a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from jinja2 import PackageLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorac.importers.ledger import Draft, Fate, Setting, is_said, places_in
from lorac.rules import Rule
from lorac.spec import Experiment
from runtime.errors import visible

TEMPLATE = "spec.py.j2"
LONGEST = 110
"""Columns of a spec's line (ruff's line-length here)."""
COMMENT = 30
"""Columns left for a comment."""
VALUE_SHOWN = 60
"""Characters of a value that a comment repeats."""


@attrs.frozen
class Field:
    """One keyword of a call: a value, or the calls of one part or several, and where it came from."""

    name: str
    value: Any
    calls: tuple[Call, ...]
    comment: str
    is_tuple: bool


@attrs.frozen
class Call:
    """A part of a spec as it is written."""

    name: str
    fields: tuple[Field, ...]

    @property
    def single(self) -> bool:
        """Whether it has one field, and that a plain one."""
        return len(self.fields) == 1 and not self.fields[0].calls


def render(draft: Draft, *, source: str, title: str, companions: Sequence[str]) -> str:
    """The spec's text. `source` and `companions` are the names of the files that were read."""
    templates = ImmutableSandboxedEnvironment(
        loader=PackageLoader("lorac"),
        undefined=StrictUndefined,
        autoescape=False,  # Python, not HTML: values go through `literal`, words through `comment`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"literal": literal, "comment": visible, "shown": shown_value}
    call = _call(draft, Experiment, "")
    return templates.get_template(TEMPLATE).render(
        experiment=call,
        imports=sorted(set(_names(call))),
        source=source,
        title=title,
        companions=companions,
        todo=draft.todo,
        left=draft.of("left"),
        count=len(draft.fates),
    )


def literal(value: Any, indent: int) -> str:
    """A value as Python source; a tuple that would be too long has a line for each element."""
    if not isinstance(value, tuple):
        return _quoted(repr(value))
    texts = [_quoted(repr(one)) for one in value]
    line = f"({', '.join(texts)}{',' * (len(texts) == 1)})"
    if indent + len(line) <= LONGEST - COMMENT:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{text},\n" for text in texts)
    return f"(\n{inner}{' ' * indent})"


def _quoted(text: str) -> str:
    """A string's `repr` in double quotes, where that is only another pair of marks."""
    plain = text.startswith("'") and not set(text) & {'"', "\\"}
    return f'"{text[1:-1]}"' if plain else text


def shown_value(fate: Fate) -> str:
    """A key's value, shortened."""
    text = repr(fate.value)
    return text if len(text) <= VALUE_SHOWN else text[: VALUE_SHOWN - 1] + "…"


def _call(draft: Draft, cls: type, place: str) -> Call:
    fields = []
    for field in attrs.fields(cls):
        name = f"{place}{field.name}"
        rule: Rule = field.metadata["rule"]
        several = places_in(name, draft.kinds)
        setting = draft.settings.get(name, Setting(None, ""))
        calls: tuple[Call, ...] = ()
        if several:
            calls = tuple(_call(draft, draft.kinds[one], f"{one}.") for one in several)
        elif attrs.has(rule.type) and is_said(name, draft.settings, draft.kinds):
            calls = (_call(draft, draft.kinds.get(name, rule.type), f"{name}."),)
        if calls or name in draft.settings:
            is_tuple = len(calls) > 1 or bool(several and not rule.others)
            alone = calls[0].fields[0].comment if len(calls) == 1 and calls[0].single else ""
            comment = setting.comment or ("" if is_tuple else alone)
            fields.append(Field(field.name, setting.value, calls, comment, is_tuple))
    return Call(cls.__name__, tuple(fields))


def _names(call: Call) -> list[str]:
    return [call.name, *(name for field in call.fields for inner in field.calls for name in _names(inner))]
