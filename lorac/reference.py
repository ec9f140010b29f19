"""Every field of a spec as a row, for `lorac spec`: made from the rules that the errors are made from."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from lorac.rules import Rule, else_words, wanted
from lorac.spec import Experiment


@attrs.frozen(kw_only=True)
class Row:
    """One field: its path in an Experiment, its class, what it takes, its default, what it means."""

    field: str
    part: str
    takes: str
    default: str
    unit: str
    doc: str


def reference() -> list[Row]:
    """All fields in the order they are written in a spec; a part that several parts have, where it comes first."""
    return list(_rows(Experiment, "", set()))


def _rows(cls: type, dotted: str, told: set[type]) -> Iterator[Row]:
    for field in attrs.fields(cls):
        rule: Rule = field.metadata["rule"]
        name = f"{dotted}{field.name}"
        yield Row(
            field=name,
            part=cls.__name__,
            takes=_takes(rule),
            default=_default(field, rule),
            unit=rule.unit,
            doc=field.metadata["doc"],
        )
        for inner in (rule.type, *rule.others):
            if attrs.has(inner) and inner not in told:
                told.add(inner)
                prefix = f"{name}." if inner is rule.type else f"{name}({inner.__name__})."
                yield from _rows(inner, prefix, told)


def _takes(rule: Rule) -> str:
    return wanted(rule) + else_words(rule)


def _default(field: attrs.Attribute[object], rule: Rule) -> str:
    if field.default is attrs.NOTHING:
        return "required"
    if words := field.metadata["default_words"]:
        return str(words)
    if attrs.has(rule.type) and field.default != ():
        return f"{rule.type.__name__}()"
    return f"None ({rule.none})" if field.default is None else repr(field.default)
