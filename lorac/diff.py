"""What differs between two plans, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from runtime import plan

PARTS = ("program", "outputs", "estimate")
"""In the order of their weight: what decides the bytes comes first."""


@attrs.frozen
class Change:
    """A field by its dotted path, with its value in either plan; None where it has none."""

    field: str
    before: str | None
    after: str | None


def differences(before: plan.Plan, after: plan.Plan) -> list[Change]:
    """The fields whose values differ."""
    found = []
    for part in PARTS:
        left = dict(_leaves(part, plan.unstructure(getattr(before, part))))
        right = dict(_leaves(part, plan.unstructure(getattr(after, part))))
        names = dict.fromkeys([*left, *right])
        found += [Change(n, left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)]
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted paths of the plain values in it; a list's elements go by what names them."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}[{_name(inner, index)}]", inner)
    else:
        yield path, f"{value}"


def _name(element: dict[str, Any], index: int) -> str:
    return str(element.get("path") or element.get("field") or element.get("point") or index)
