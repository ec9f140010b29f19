"""A plan of another lorac is told apart by its format, not mistaken for a damaged one."""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Iterator
from typing import Any

import attrs

from runtime import plan

FIELDS = {5: "7b96e5e56749877d09a3e1261fecd925fca34a92dd7e6b953e40438642b08be0"}
"""The sha256 of all that a plan of that format is made of, a line a field: a field more or less is another format."""


def test_a_plan_of_other_fields_has_another_format() -> None:
    lines = "\n".join(sorted(set(fields(plan.Plan))))
    assert {plan.FORMAT: hashlib.sha256(lines.encode()).hexdigest()} == FIELDS, (
        "raise FORMAT, then note the new sha256"
    )


def fields(cls: type) -> Iterator[str]:
    """CLASS.FIELD: TYPE of every field that a class has, and of those in them."""
    types = typing.get_type_hints(cls)
    for field in attrs.fields(cls):
        yield f"{cls.__name__}.{field.name}: {types[field.name]}"
        for inner in classes(types[field.name]):
            yield from fields(inner)


def classes(of: Any) -> Iterator[type]:
    """The attrs classes in a type."""
    if isinstance(of, type) and attrs.has(of):
        yield of
    for inner in typing.get_args(of):
        yield from classes(inner)
