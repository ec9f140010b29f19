"""A plan's pictures on disk: in plan.json while they are few, else in a file beside it. A part of `runtime.plan`.

plan.json then stays readable, and says the file's name, its sha256 and how many lines it has; a line is one picture.
What the program is, and its hash, do not depend on where its pictures lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from runtime.errors import InputError, PlanError, Problem
from runtime.safeio import atomic, digest, strict_json

MANY = 5000
"""Pictures from which on they lie beside the plan: their part of plan.json would be above 1.5 MB."""

AGAIN = "put the file back beside the plan, or make the plan again: lorac plan SPEC"


def beside(path: Path) -> Path:
    """Where the pictures of the plan at `path` lie, if they are many."""
    return path.with_name(f"{path.stem}-data.jsonl")


def set_aside(data: dict[str, Any], path: Path) -> None:
    """Write the pictures of a plan (plain JSON data, which is changed) beside `path`, where they are many."""
    items = data["program"]["data"].get("items", ())
    if len(items) < MANY:
        if beside(path).exists():  # an earlier plan's
            beside(path).unlink()
        return
    written = hashlib.sha256()
    with atomic.writing(beside(path)) as file:
        for item in items:
            line = _line(item).encode()
            file.write(line)
            written.update(line)
    data["program"]["data"]["items"] = {
        "file": beside(path).name,
        "sha256": written.hexdigest(),
        "count": len(items),
    }


def take_out(data: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """The pictures that lie beside the plan at `path`: each with its place, file:line, as plain JSON data.

    `data` is the plan's own, and is left without pictures. Only that one file is ever read, whatever the plan names.
    Raises PlanError where it is not what was written.
    """
    try:
        said = data["program"]["data"]["items"]
    except (KeyError, TypeError):
        return iter(())  # no plan at all, or one of text: whoever reads it further says so
    if not isinstance(said, dict):
        return iter(())
    file = beside(path)
    try:
        found = digest.sha256_file(file)
    except InputError as error:
        raise PlanError(attrs.evolve(one, where=str(file), hint=AGAIN) for one in error.problems) from None
    if found != said.get("sha256"):
        raise PlanError(Problem(str(file), "is not the file that the plan was written with", AGAIN))
    data["program"]["data"]["items"] = []
    return _items(file)


def _line(item: dict[str, Any]) -> str:
    return json.dumps(item, sort_keys=True, ensure_ascii=False) + "\n"


def _items(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            yield place, strict_json.loads(line, place, error=PlanError)
