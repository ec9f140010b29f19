"""What an import did, for a terminal and as JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from lorac.importers.importing import Imported
from lorac.importers.ledger import Fate
from lorac.importers.render import shown_value
from runtime.errors import visible
from runtime.safeio import paths

INDENT = "  "


def text(imported: Imported, width: int, each: bool = False) -> str:
    """What it was, each key with its fate, what is still to do, where the spec is. Keys that need no word are counted;
    with `each` they are listed, too."""
    return "\n".join(visible(line) for line in _lines(imported, width, each))


def answer(imported: Imported) -> dict[str, Any]:
    """What `lorac import --json` prints."""
    draft = imported.draft
    return {
        "format": imported.title,
        "source": imported.source.as_posix(),
        "companions": {key: path.as_posix() for key, path in imported.companions.items()},
        "path": imported.path.as_posix(),
        "carried": [_row(fate, "field") for fate in draft.of("carried")],
        "as_lorac_does": [_row(fate, "why") for fate in draft.of("ours")],
        "not_carried": [_row(fate, "why") for fate in draft.of("left")],
        "to_do": list(draft.todo),
    }


def _row(fate: Fate, says: str) -> dict[str, str]:
    return {"key": visible(fate.key), "value": visible(shown_value(fate)), says: said(fate)}


def said(fate: Fate) -> str:
    """What became of a key; a part of several by its place, `data[0].path`."""
    return re.sub(r"\.(\d+)\.", r"[\1].", fate.what) if fate.kind == "carried" else fate.what


def _lines(imported: Imported, width: int, each: bool) -> Iterator[str]:
    draft = imported.draft
    read = "".join(f" with {paths.display(path)}" for path in imported.companions.values())
    yield f"{paths.display(imported.source)}: {imported.title}{read}"
    for kind, title in (
        ("carried", "carried"),
        ("ours", "not needed: lorac does so anyway, or decides it by itself"),
        ("left", "not carried"),
    ):
        fates = draft.of(kind)  # type: ignore[arg-type]  # the three kinds
        if fates and kind == "ours" and not each:
            yield ""
            yield f"not needed ({len(fates)}): lorac does so anyway, or decides it by itself; --all lists them"
        elif fates:
            yield ""
            yield f"{title} ({len(fates)})"
            wide = min(44, max(len(f"{fate.key} = {shown_value(fate)}") for fate in fates))
            for fate in fates:
                yield from _wrapped(f"{fate.key} = {shown_value(fate)}", said(fate), wide, width)
    if draft.todo:
        yield ""
        yield "still to do"
        for line in draft.todo:
            yield from textwrap.wrap(
                line, width, initial_indent=f"{INDENT}- ", subsequent_indent=f"{INDENT}  "
            )
    yield ""
    yield f"wrote {imported.path}"
    yield f"{'then plan it' if draft.todo else 'plan it'}: lorac plan {imported.path}"


def _wrapped(left: str, right: str, wide: int, width: int) -> Iterator[str]:
    """Two columns; what is too long for its own goes on a line of its own."""
    lines = textwrap.wrap(right, max(20, width - wide - 4)) or [""]
    if len(left) > wide:
        yield f"{INDENT}{left}"
    else:
        yield f"{INDENT}{left:<{wide}}  {lines.pop(0)}".rstrip()
    for line in lines:
        yield f"{INDENT}{'':<{wide}}  {line}"
