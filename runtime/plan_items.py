"""A plan's pictures on disk: in plan.json while they are few, else in a file beside it. A part of `runtime.plan`.

plan.json then stays readable, and says the file's name, its sha256 and how many lines it has; a line is one picture.
What the program is, and its hash, do not depend on where its pictures lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.errors import PlanError, Problem
from runtime.safeio import atomic, strict_json

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
    text = "".join(_line(item) for item in items)
    atomic.write_text(beside(path), text)
    data["program"]["data"]["items"] = {
        "file": beside(path).name,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "count": len(items),
    }


def bring_back(data: Any, path: Path) -> Any:
    """The plan at `path` (plain JSON data, which is changed) with the pictures that lie beside it.

    Only that one file is ever read, whatever the plan names. Raises PlanError where it is not what was written.
    """
    try:
        said = data["program"]["data"]["items"]
    except (KeyError, TypeError):
        return data  # no plan at all, or one of text: whoever reads it further says so
    if not isinstance(said, dict):
        return data
    file = beside(path)
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise PlanError(Problem(str(file), f"cannot be read: {error.strerror}", AGAIN)) from None
    if hashlib.sha256(raw).hexdigest() != said.get("sha256"):
        raise PlanError(Problem(str(file), "is not the file that the plan was written with", AGAIN))
    data["program"]["data"]["items"] = list(_items(raw.splitlines(), file))
    return data


def _line(item: dict[str, Any]) -> str:
    return json.dumps(item, sort_keys=True, ensure_ascii=False) + "\n"


def _items(lines: Iterable[bytes], file: Path) -> Iterable[Any]:
    for number, line in enumerate(lines, start=1):
        yield strict_json.loads(line, f"{file}:{number}", error=PlanError)
