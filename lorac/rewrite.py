"""A spec's own text with other values in it, all else as the person wrote it.

A value is replaced, or a keyword added, in the call that made the part (`lorac.origin`). What such an edit cannot
reach, an experiment made in a loop or a field given as `**settings`, shows when the new text is loaded and compared.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import attrs

from lorac import changes, spec
from lorac.changes import Settings
from lorac.importers.render import literal
from lorac.load import Loaded, load
from lorac.origin import Origin
from lorac.parts import rule_of
from lorac.rules import Rule
from lorac.spec import Samples
from runtime.errors import Problem, SpecError
from runtime.safeio import atomic


@attrs.frozen
class Edit:
    """Text in place of the bytes from `start` to `end`."""

    start: int
    end: int
    text: str


def written(of: Loaded, settings: Settings, path: Path) -> Loaded:
    """Write the spec with other values to `path`, where it finds the same files, and load it.

    Raises SpecError for values that the spec's rules refuse and for a spec whose text cannot be changed.
    """
    moved = {**_moved(of, path.parent), **settings}
    meant = changes.changed(of.experiment, moved)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, rewritten(of, moved))
    try:
        loaded = load(path)
    except SpecError:  # such as a keyword that `**settings` gives, too
        loaded = []
    if [one.experiment for one in loaded] != [meant]:
        path.unlink()
        hint = "bind one experiment = Experiment(…) with its values written out"
        raise SpecError(Problem(f"{of.path}:{of.line}", "its values cannot be changed in its text", hint))
    return loaded[0]


def rewritten(of: Loaded, settings: Settings) -> str:
    """The spec's text with these values. Raises SpecError where the experiment's call is not in it."""
    source = of.path.read_bytes()
    edits = [
        edit
        for place, values in _by_part(changes.together(settings)).items()
        for edit in _edits(source, of, place, values)
    ]
    for edit in sorted(edits, key=lambda one: -one.start):
        source = source[: edit.start] + edit.text.encode() + source[edit.end :]
    return _with_imports(source.decode())


def _moved(of: Loaded, folder: Path) -> dict[str, Any]:
    """The spec's relative places as they are called from another folder."""
    found: dict[str, Any] = {}
    are_sets = isinstance(of.experiment.data, tuple)
    data = [f"data.{place}" for place in range(len(of.experiment.data))] if are_sets else ["data"]  # type: ignore[arg-type]
    for place in ("base", *data):
        part = changes.at(of.experiment, place)
        for field in attrs.fields(type(part)):
            rule: Rule = field.metadata["rule"]
            value = getattr(part, field.name)
            if rule.type is PurePath and isinstance(value, str):
                found[f"{place}.{field.name}"] = _seen(of.path.parent / value, folder)
    samples = of.experiment.samples
    several = {
        "base.parts": of.experiment.base.parts,
        "samples.references": samples.references if isinstance(samples, Samples) else (),
    }
    return found | {
        name: tuple(_seen(of.path.parent / one, folder) for one in places)
        for name, places in several.items()
        if places
    }


def _seen(place: Path, folder: Path) -> str:
    return Path(os.path.relpath(place, folder)).as_posix()


def _by_part(settings: Settings) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for field, value in settings.items():
        place, _, name = field.rpartition(".")
        found.setdefault(place, {})[name] = value
    return found


# ------------------------------------------------------------------------------------------------------------- edits


def _edits(source: bytes, of: Loaded, place: str, values: Mapping[str, Any]) -> Iterator[Edit]:
    """Of one part: in its own call, or as a new call in that of the experiment."""
    part = changes.at(of.experiment, place)
    call = _call(part, of)
    if call is not None:
        yield from _in_call(source, call, {name: _literal(value, call) for name, value in values.items()})
        return
    outer, _, name = place.rpartition(".")
    owner = changes.at(of.experiment, outer)
    call = _call(owner, of) if place else None
    if call is None:
        hint = "write the experiment as Experiment(…) in this file"
        raise SpecError(Problem(f"{of.path}:{of.line}", "its call is not in the spec's text", hint))
    yield from _in_call(source, call, {name: _spelled(part, values, rule_of(type(owner), name).lift)})


def _call(part: Any, of: Loaded) -> ast.Call | None:
    """The call that made a part, where it stands in the spec's file by itself."""
    origin: Origin | None = getattr(part, "_origin", None)  # a tuple of parts has none
    return origin.call() if origin and origin.file == str(of.path) and not origin.within else None


def _spelled(part: Any, values: Mapping[str, Any], is_lifted: bool) -> str:
    """A part as a call with what is not its default; as its only value where a plain one will do."""
    fields = attrs.fields(type(part))
    said = {
        field.name: values.get(field.name, getattr(part, field.name))
        for field in fields
        if field.name in values
        or (not isinstance(field.default, attrs.Factory) and getattr(part, field.name) != field.default)  # type: ignore[arg-type]
    }
    if is_lifted and list(said) == [fields[0].name]:
        return literal(said[fields[0].name], 0)
    return (
        f"{type(part).__name__}({', '.join(f'{name}={literal(value, 0)}' for name, value in said.items())})"
    )


def _literal(value: Any, call: ast.Call) -> str:
    """A value as it is written in a call whose keywords stand below it."""
    inside = call.keywords[0].col_offset if call.keywords else 0
    return literal(value, inside)


def _in_call(source: bytes, call: ast.Call, texts: Mapping[str, str]) -> Iterator[Edit]:
    """Values replaced where they stand, and what is not there yet added at the end."""
    starts = _line_starts(source)
    named = {keyword.arg: keyword for keyword in call.keywords}
    new = []
    for name, text in texts.items():
        if name in named:
            value = named[name].value
            yield Edit(_offset(starts, value), _end(starts, value), text)
        elif _positional(call, name):
            yield Edit(_offset(starts, call.args[0]), _end(starts, call.args[0]), text)
        elif text != "None":
            new.append(f"{name}={text}")
    if new:
        yield _added(source, starts, call, new)


def _positional(call: ast.Call, name: str) -> bool:
    """Whether the field is the call's unnamed value: a part's only such field is its path."""
    return bool(call.args) and name == "path"


def _added(source: bytes, starts: Sequence[int], call: ast.Call, texts: Sequence[str]) -> Edit:
    """New keywords after the last argument: on a line of their own where that has one."""
    close = _end(starts, call) - 1
    arguments: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    last = max(arguments, key=lambda node: _end(starts, node), default=None)
    if last is None:
        return Edit(close, close, ", ".join(texts))
    end = _end(starts, last)
    rest = source[end:close]
    comma = b"," in re.sub(rb"#[^\n]*", b"", rest)
    if b"\n" not in rest:
        return Edit(end, close, ", " + ", ".join(texts))
    indent = " " * last.col_offset
    lines = "".join(f"\n{indent}{text}," for text in texts)
    break_ = end + rest.index(b"\n")
    kept = source[end:break_].decode()
    return Edit(end, break_, ("" if comma else ",") + kept + lines)


def _line_starts(source: bytes) -> list[int]:
    return [0, *(match.end() for match in re.finditer(rb"\n", source))]


def _offset(starts: Sequence[int], node: ast.expr | ast.keyword) -> int:
    return starts[node.lineno - 1] + node.col_offset


def _end(starts: Sequence[int], node: ast.expr | ast.keyword) -> int:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return starts[node.end_lineno - 1] + node.end_col_offset


def _with_imports(text: str) -> str:
    """The text with an import of each part that it calls and does not have yet."""
    tree = ast.parse(text)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    imports = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "lorac"]
    bound = {alias.asname or alias.name for node in imports for alias in node.names}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    missing = sorted((called - bound - defined) & set(spec.__all__))
    if not missing or not imports:
        return text
    lines = text.splitlines(keepends=True)
    lines.insert(imports[-1].end_lineno or 0, f"from lorac import {', '.join(missing)}\n")
    return "".join(lines)
