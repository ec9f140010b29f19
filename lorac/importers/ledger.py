"""What becomes of a config's keys: each is carried, is lorac's own way anyway, or is left with the reason.

- A `Ledger` holds every leaf of the parsed data. What an importer does not settle is told as unknown: no key can be
  dropped in silence.
- A value that lorac refuses, by the very rule that a spec's errors are made from, is left with that rule's words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs

from lorac.parts import Auto, collecting, rule_of
from lorac.rules import Rule, check
from lorac.spec import Experiment
from runtime.errors import InputError, Problem
from runtime.families import FAMILIES

Path = tuple[str | int, ...]
"""Where a leaf is: keys of mappings and places in lists, from the outside in."""

Kind = Literal["carried", "ours", "left"]

MOST_LEAVES = 20_000
"""A config has hundreds; YAML's aliases can make millions of a few bytes."""
DEEPEST = 32

EMPTY: tuple[Any, ...] = (None, "", [], {})
OFF = (*EMPTY, False, 0)
"""What a key that switches something says when it does not."""

UNKNOWN = "this importer does not know the key"


@attrs.frozen
class Fate:
    """What became of a key: the field it went to, why it needs no word, or why it could not be carried."""

    key: str
    value: Any
    kind: Kind
    what: str


@attrs.frozen
class Setting:
    """A value of the spec, and the comment that says where it came from."""

    value: Any
    comment: str


@attrs.frozen(kw_only=True)
class Draft:
    """A spec to be: fields by their path in an Experiment, each key's fate, what the user still has to do."""

    settings: dict[str, Setting]
    kinds: dict[str, type]
    fates: tuple[Fate, ...]
    todo: tuple[str, ...]

    def of(self, kind: Kind) -> list[Fate]:
        """The fates of one kind, in the source's order."""
        return [fate for fate in self.fates if fate.kind == kind]


class CannotCarry(Exception):
    """Raised by a change of a value: why lorac has no word for it."""


class IsOurs(Exception):
    """Raised by a change of a value: why it needs no word."""


# ------------------------------------------------------------------------------------------- what a table says of a key


@attrs.frozen
class To:
    """It is this field; `change` gives the value as lorac has it, or raises CannotCarry or IsOurs."""

    field: str
    change: Callable[[Any], Any] = lambda value: value


@attrs.frozen
class Ours:
    """Whatever it says, it is as lorac does it, or lorac's planner decides it: `why`."""

    why: str


@attrs.frozen
class Cannot:
    """lorac has no word for it: `why`."""

    why: str


@attrs.frozen
class Unless:
    """Off, lorac does the same; on, it has no word for it."""

    why: str
    off: tuple[Any, ...] = OFF
    same: str = "off, as in lorac"


Verdict = To | Ours | Cannot | Unless
Table = Mapping[str, Verdict]


# ------------------------------------------------------------------------------------------------------------- ledger


@attrs.define
class Ledger:
    """All leaves of a config by path, and what was settled so far.

    `kinds` names the class of a part where a spec has a choice: {"samples": Answers, "data.0": Instructions}. Several
    data sets are data.0, data.1 and so on, and words adapter.words.0. `within` is the part of paths that is not shown:
    a format's outer shell.
    """

    entries: dict[Path, Any]
    kinds: dict[str, type] = attrs.field(factory=dict)
    within: Path = ()
    settings: dict[str, Setting] = attrs.field(factory=dict)
    todo: list[str] = attrs.field(factory=list)
    _fates: dict[Path, Fate] = attrs.field(factory=dict)
    _refused: set[str] = attrs.field(factory=set)

    def open(self) -> Iterator[Path]:
        """The paths that are not settled, in the source's order."""
        return iter([path for path in self.entries if path not in self._fates])

    def carry(self, field: str, value: Any, *paths: Path, comment: str = "") -> bool:
        """Give a field its value, in the name of the keys at `paths`; they are left where lorac refuses it."""
        if not comment:
            comment = self.shown(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        if field == "name":
            value = self._named(value)
        value, wrong = fitted(field, value, self.kinds)
        if not wrong and field in self.settings:
            wrong = f"{field} is set already, by {self.settings[field].comment}"
        if wrong:
            self._refused.add(field)
        else:
            self.settings[field] = Setting(value, comment)
        for path in paths:
            self.left(path, wrong) if wrong else self._settle(path, "carried", field)
        return not wrong

    def choose(self, part: str, cls: type, *paths: Path) -> None:
        """Of the classes that a part may be of, take this one, in the name of the keys at `paths`."""
        self.kinds[part] = cls
        for path in paths:
            self._settle(path, "carried", part)

    def assume(self, field: str, value: Any, comment: str) -> None:
        """What the trainer takes where its config is silent, and lorac would not."""
        if field not in self.settings and field not in self._refused:
            self.carry(field, value, comment=comment)

    def ours(self, path: Path, why: str) -> None:
        """The key needs no word."""
        self._settle(path, "ours", why)

    def left(self, path: Path, why: str) -> None:
        """The key could not be carried."""
        self._settle(path, "left", why)

    def refuse(self, field: str, path: Path, why: str) -> None:
        """The key could not be carried, and its field keeps lorac's default, not the trainer's."""
        self._refused.add(field)
        self.left(path, why)

    def apply(self, path: Path, rule: Verdict) -> None:
        """Settle a key as a table says."""
        value = self.entries[path]
        match rule:
            case To(field, change):
                try:
                    self.carry(field, change(value), path)
                except CannotCarry as reason:
                    self.refuse(field, path, str(reason))
                except IsOurs as reason:
                    self.ours(path, str(reason))
            case Ours(why):
                self.ours(path, why)
            case Cannot(why):
                self.left(path, why)
            case Unless(why, off, same):
                self.ours(path, same) if is_off(value, off) else self.left(path, why)

    def settle(self, table: Table, name: Callable[[Path], str] = lambda path: bare(path)) -> None:
        """Settle what is still open: by the table, else as empty, else as unknown."""
        for path in self.open():
            rule = table.get(name(path))
            if rule is not None and not (isinstance(rule, To) and is_off(self.entries[path], EMPTY)):
                self.apply(path, rule)
            elif is_off(self.entries[path], EMPTY):
                self.ours(path, "empty")
            else:
                self.left(path, UNKNOWN)

    def family(self, name: str, *paths: Path) -> None:
        """The base's family, where this lorac has it; it is recognised from the tensors otherwise."""
        if name in FAMILIES:
            self.carry("base.family", name, *paths)
        else:
            for path in paths:
                self.left(path, f"this lorac has no family {name!r}; it has {', '.join(FAMILIES)}")

    def draft(self) -> Draft:
        """The whole. Values that contradict each other are left, with the words of a spec's own errors."""
        self.settle({})
        while problems := self._disagreements():
            for field, what in problems.items():
                self.settings.pop(field)
                for path, fate in self._fates.items():
                    if fate.kind == "carried" and field in fate.what.split(", "):
                        self.left(path, what)
        fates = tuple(self._fates[path] for path in self.entries)
        return Draft(settings=dict(self.settings), kinds=dict(self.kinds), fates=fates, todo=tuple(self.todo))

    def shown(self, path: Path) -> str:
        """A key as it is told."""
        inner = path[: len(self.within)] == self.within
        return shown(path[len(self.within) :] if inner else path)

    def _named(self, value: Any) -> Any:
        """A name as files and prompts take it."""
        name = as_name(str(value))
        if name != value:
            self.todo.append(f"name: {value!r} became {name!r}: it is a file's name, and a word in prompts")
        return name

    def _disagreements(self) -> dict[str, str]:
        """Fields that a spec of these values would be refused for, each with the first thing wrong."""
        values = {field: one.value for field, one in self.settings.items()}
        stand_in = {"name": "name", "base.path": "base"}
        stand_in |= {f"{place}.path": "data" for place in self.kinds if place.startswith("data.")} or {
            "data.path": "data"
        }
        with collecting() as found:
            experiment(stand_in | values, self.kinds)
        wrong: dict[str, str] = {}
        for one in found:
            field = one.what.split(" ")[0].split("[")[0]
            if field not in values:
                raise AssertionError(f"a spec of {values} is refused for what is not in it: {one.what}")
            wrong.setdefault(field, one.what)
        return wrong

    def _settle(self, path: Path, kind: Kind, what: str) -> None:
        before = self._fates.get(path)
        if before and kind == "carried":  # a key of several values: what could not be carried counts
            kind, what = before.kind, f"{before.what}, {what}" if before.kind == "carried" else before.what
        self._fates[path] = Fate(self.shown(path), self.entries[path], kind, what)


def ledger(config: Any, prefix: Path = ()) -> Ledger:
    """A ledger of parsed data. Raises InputError for data that is too large or too deep."""
    return Ledger(leaves(config, prefix))


def leaves(value: Any, prefix: Path = ()) -> dict[Path, Any]:
    """Every leaf of nested mappings and lists of mappings; a list of plain values is one leaf."""
    found: dict[Path, Any] = {}
    _gather(value, prefix, found)
    return found


def _gather(value: Any, path: Path, found: dict[Path, Any]) -> None:
    if len(found) >= MOST_LEAVES or len(path) > DEEPEST:
        limit = f"more than {MOST_LEAVES:,} keys, or is nested deeper than {DEEPEST} levels"
        raise InputError(Problem("", f"the config has {limit}", "give the config that a trainer wrote"))
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            _gather(inner, (*path, str(key)), found)
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for place, inner in enumerate(value):
            _gather(inner, (*path, place), found)
    else:
        found[path] = value


def shown(path: Path) -> str:
    """`datasets[0].subsets[1].image_dir`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def bare(path: Path) -> str:
    """The last name of a path: a key without its section."""
    return next((part for part in reversed(path) if isinstance(part, str)), "")


def dotted(path: Path) -> str:
    """A path without places in lists: `datasets.subsets.image_dir`."""
    return ".".join(part for part in path if isinstance(part, str))


def as_name(text: str) -> str:
    """The nearest to a text that an experiment may be called; empty if nothing of it is left."""
    return re.sub(r"[^A-Za-z0-9_-]*$|^[^A-Za-z0-9]*", "", re.sub(r"[^A-Za-z0-9_.-]+", "_", text))[:60].rstrip(
        "."
    )


def outermost(table: Table) -> Callable[[Path], str]:
    """Names keys by the outermost part of their path: a table may speak of all that is in a section.

    A field's own value is no section: what is nested where a plain value belongs has no name in the table.
    """

    def name(path: Path) -> str:
        first = str(path[0])
        return dotted(path) if len(path) > 1 and isinstance(table.get(first), To) else first

    return name


def is_off(value: Any, off: Sequence[Any]) -> bool:
    """Whether a value is one of `off`; text that spells such a value is one, too."""
    given = _spelt(value)
    return any(
        given == _spelt(one) and isinstance(given, bool) == isinstance(_spelt(one), bool) for one in off
    )


def _spelt(value: Any) -> Any:
    """The value that a text spells; other text in lower case."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    words = {"none": None, "null": None, "false": False, "no": False, "true": True}
    if word in words:
        return words[word]
    return float(word) if re.fullmatch(r"-?\d{1,15}(\.\d*)?", word) else word


def is_on(value: Any) -> bool:
    """Whether a switch says yes."""
    return not is_off(value, OFF)


# ------------------------------------------------------------------------------------------ what lorac says of values


def rule_at(field: str, kinds: Mapping[str, type]) -> Rule:
    """The rule of a field by its path in an Experiment whose parts are of these kinds."""
    *places, last = field.split(".")
    cls: type = Experiment
    for depth, name in enumerate(places, start=1):
        place = ".".join(places[:depth])
        cls = kinds[place] if place in kinds else cls if name.isdecimal() else rule_of(cls, name).type
    return rule_of(cls, last)


def fitted(field: str, value: Any, kinds: Mapping[str, type]) -> tuple[Any, str]:
    """A value in the field's own type where that loses nothing, and what is wrong with it (empty: nothing)."""
    try:
        rule = rule_at(field, kinds)
    except KeyError:
        part, _, name = field.rpartition(".")
        return value, f"lorac's {kinds[part].__name__} has no {name}"
    value, wrongs = check(rule, _plain(rule, value), Auto)
    return value, f"{field} {wrongs[0].what}" if wrongs else ""


def number(value: Any) -> float:
    """A finite number that a config may have written as text (YAML 1.1 reads `1e-4` as text). Raises CannotCarry."""
    try:
        real = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        real = math.nan
    if not math.isfinite(real):
        raise CannotCarry(f"is not a number: {value!r}")
    return real


def whole(value: Any) -> int:
    """A whole number, however written. Raises CannotCarry."""
    real = number(value)
    if not real.is_integer():
        raise CannotCarry(f"is not a whole number: {value!r}")
    return int(real)


def _plain(rule: Rule, value: Any) -> Any:
    if rule.many:
        return tuple(value) if isinstance(value, list) else value
    if rule.type in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            real = float(value)
        except (ValueError, OverflowError):
            return value
        if rule.type is int:
            return int(real) if real.is_integer() else real
        return real
    if rule.type is bool and str(value).lower() in ("true", "false", "0", "1"):
        return str(value).lower() in ("true", "1")
    return value


def experiment(values: Mapping[str, Any], kinds: Mapping[str, type]) -> Experiment:
    """The experiment whose fields are these."""
    made: Experiment = _part(values, kinds, Experiment, "")
    return made


def places_in(part: str, kinds: Mapping[str, type]) -> list[str]:
    """The places of a part that is several: data.0, data.1."""
    return [one for one in kinds if one.rpartition(".")[0] == part and one.rpartition(".")[2].isdecimal()]


def is_said(part: str, fields: Iterable[str], kinds: Mapping[str, type]) -> bool:
    """Whether anything is said of a part: one of its fields, or which class it or a part of it is of."""
    return part in kinds or any(one.startswith(f"{part}.") for one in (*fields, *kinds))


def _part(values: Mapping[str, Any], kinds: Mapping[str, type], cls: type, place: str) -> Any:
    given = {}
    for field in attrs.fields(cls):
        name = f"{place}{field.name}"
        rule: Rule = field.metadata["rule"]
        several = places_in(name, kinds)
        if name in values:
            given[field.name] = values[name]
        elif several:
            parts = tuple(_part(values, kinds, kinds[one], f"{one}.") for one in several)
            given[field.name] = parts if len(parts) > 1 or not rule.others else parts[0]
        elif attrs.has(rule.type) and is_said(name, values, kinds):
            given[field.name] = _part(values, kinds, kinds.get(name, rule.type), f"{name}.")
    return cls(**given)
