"""What differs between two plans, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from runtime import plan

PARTS = ("program", "outputs", "estimate")
"""In the order of their weight: what decides the bytes comes first."""
MISSING = object()


@attrs.frozen
class Change:
    """A field by its dotted path, with its plain value in either plan; MISSING where it has none."""

    field: str
    before: Any
    after: Any


def differences(before: plan.Plan, after: plan.Plan) -> list[Change]:
    """The fields whose values differ."""
    found = []
    for part in PARTS:
        left = dict(_leaves(part, plan.unstructure(getattr(before, part))))
        right = dict(_leaves(part, plan.unstructure(getattr(after, part))))
        names = dict.fromkeys([*left, *right])
        pairs = [(name, left.get(name, MISSING), right.get(name, MISSING)) for name in names]
        found += [Change(name, one, other) for name, one, other in pairs if one != other]
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted paths of the plain values in it; a list's elements go by what names them."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}[{_name(inner, index)}]", inner)
    else:
        yield path, value


def _name(element: dict[str, Any], index: int) -> str:
    return str(element.get("path") or element.get("field") or element.get("point") or index)
