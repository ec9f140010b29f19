"""Changes to an experiment by dotted fields: `train.learning_rate` is the learning_rate of its train."""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from lorac.load import Loaded
from lorac.parts import SEE, Auto, collecting, no_field
from lorac.spec import Experiment
from runtime.errors import Problem, SpecError

LONGEST_NAME = 64
"""Characters of an experiment's name (`Experiment.name`)."""
MOST = 64
"""Runs of a sweep: a slip of the pen should not plan for a week."""
INSTEAD = {"train.steps": "train.epochs", "train.epochs": "train.steps"}
"""A field that takes the place of another."""

Settings = Mapping[str, Any]
"""Dotted field -> its value."""


@attrs.frozen
class Values:
    """What `--set FIELD=A,B` asks for."""

    field: str
    values: tuple[Any, ...]


@attrs.frozen
class Variant:
    """One experiment of a sweep, and what is set in it."""

    loaded: Loaded
    settings: Settings


def parse(words: str) -> Values:
    """`field=a,b` as values: Python literals, and what is none is text. Raises SpecError."""
    field, equals, listed = words.partition("=")
    try:
        values = tuple(ast.literal_eval(f"[{listed}]"))
    except (ValueError, SyntaxError):
        values = tuple(_literal(one.strip()) for one in listed.split(","))
    if not (equals and field.strip() and values) or "" in values:
        hint = "write --set train.learning_rate=1e-4,2e-4"
        raise SpecError(Problem(f"--set {words}", "must be FIELD=VALUE,VALUE", hint))
    return Values(field.strip(), values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def variants(loaded: Sequence[Loaded], asked: Sequence[Values]) -> list[Variant]:
    """Each experiment with each combination of values, named after them. Raises SpecError with all that is wrong."""
    count = len(loaded)
    for one in asked:
        count *= len(one.values)
    if count > MOST:
        raise SpecError(
            Problem("--set", f"makes {count} runs, and a sweep has at most {MOST}", "give fewer values")
        )
    problems = list(dict.fromkeys(itertools.chain(_twice(asked), _unknown(loaded, asked))))
    if problems:
        raise SpecError(problems)
    found: list[Variant] = []
    for spec, values in itertools.product(loaded, itertools.product(*(one.values for one in asked))):
        settings = {one.field: value for one, value in zip(asked, values, strict=True)}
        made, wrong = _changed(spec.experiment, settings)
        problems += [Problem(_flags(what, settings), what, hint) for what, hint in wrong]
        named = _named(made, spec.experiment.name, settings)
        found.append(Variant(attrs.evolve(spec, experiment=named), settings))
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    return found


def changed(experiment: Experiment, settings: Settings) -> Experiment:
    """The experiment with other values. Raises SpecError with what its own rules have against them."""
    made, wrong = _changed(experiment, settings)
    if wrong:
        raise SpecError([Problem("", what, hint) for what, hint in wrong])
    return made


def at(experiment: Experiment, place: str) -> Any:
    """A part by its dotted place: "train", "data.0" of several, "" for the experiment."""
    found: Any = experiment
    for name in filter(None, place.split(".")):
        found = found[int(name)] if isinstance(found, tuple) else getattr(found, name)
    return found


def together(settings: Settings) -> dict[str, Any]:
    """The settings, and what has to be left out for them: steps take the place of epochs."""
    left_out = {INSTEAD[field]: None for field in settings if field in INSTEAD}
    return {**left_out, **settings}


# ---------------------------------------------------------------------------------------------------------- changing


def _changed(experiment: Experiment, settings: Settings) -> tuple[Experiment, list[tuple[str, str]]]:
    """The changed experiment, and what is wrong with it as (what, hint)."""
    with collecting() as found:
        made = _evolved(experiment, {tuple(f.split(".")): value for f, value in together(settings).items()})
    return made, [(one.what, one.hint) for one in found]


def _evolved(part: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    """A part with other values; where it was written stays known."""
    direct = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in dict.fromkeys(path[0] for path in values if len(path) > 1):
        inner = {path[1:]: value for path, value in values.items() if path[0] == name and len(path) > 1}
        direct[name] = _evolved(part[int(name)] if isinstance(part, tuple) else getattr(part, name), inner)
    if isinstance(part, tuple):
        return tuple(direct.get(str(place), one) for place, one in enumerate(part))
    made = attrs.evolve(part, **direct)
    object.__setattr__(made, "_origin", part._origin)
    return made


def _named(experiment: Experiment, name: str, settings: Settings) -> Experiment:
    """Named after its values: more of them later leave the runs that are there what they are."""
    if not settings:
        return experiment
    words = [f"{field.rpartition('.')[2]}-{value}" for field, value in settings.items()]
    plain = "-".join([name, *words])
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", plain)
    if safe != plain or len(safe) > LONGEST_NAME:
        mark = hashlib.sha256(plain.encode()).hexdigest()[:8]
        safe = f"{safe[: LONGEST_NAME - len(mark) - 1]}-{mark}"
    with collecting():  # what is wrong with it is told already
        made: Experiment = _evolved(experiment, {("name",): safe})
    return made


# --------------------------------------------------------------------------------------------------------- complaints


def _twice(asked: Iterable[Values]) -> Iterator[Problem]:
    seen: set[str] = set()
    for one in asked:
        if one.field in seen:
            yield Problem(f"--set {one.field}", "is given twice", "name all its values in one --set")
        seen.add(one.field)


def _unknown(loaded: Iterable[Loaded], asked: Iterable[Values]) -> Iterator[Problem]:
    """Fields that an experiment does not have, or that are no values."""
    for experiment in (one.experiment for one in loaded):
        for field in (one.field for one in asked):
            if field == "name":
                hint = "leave it out"
                yield Problem("--set name", "cannot be set: each run is named after its values", hint)
                continue
            place, _, name = field.rpartition(".")
            try:
                part = at(experiment, place)
            except (AttributeError, IndexError, ValueError):
                yield Problem(f"--set {field}", f"there is no part {place!r}", SEE)
                continue
            yield from _wrong_name(part, field, name)


def _wrong_name(part: Any, field: str, name: str) -> Iterator[Problem]:
    if not attrs.has(type(part)):
        yield Problem(f"--set {field}", "names no single part: its fields cannot be set", SEE)
        return
    names = [one.name for one in attrs.fields(type(part))]
    if name not in names:
        dotted = field.removesuffix(name)
        yield Problem(f"--set {field}", *no_field(type(part), name, names, dotted))
    elif attrs.has(type(value := getattr(part, name))) and not isinstance(value, Auto):
        yield Problem(f"--set {field}", "is a part: set one of its fields", SEE)


def _flags(what: str, settings: Settings) -> str:
    """The options that a complaint is about: those whose field it names, or all of them."""
    named = [field for field in settings if what.startswith(field)]
    return " ".join(f"--set {field}={settings[field]}" for field in named or settings)
