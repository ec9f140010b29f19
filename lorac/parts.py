"""How a part of a spec is made from its fields: one decorator checks, collects problems and remembers where.

- A part is a frozen attrs class. Each field carries its `Rule` and its doc as metadata.
- In a notebook a wrong part raises one SpecError with all that is wrong with it. While a spec file is read,
  problems are collected instead, and the part is made with the wrong value: the rest is looked at too.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from pathlib import PurePath
from typing import Any, TypeVar, cast, dataclass_transform

import attrs

from lorac.origin import Origin, caller
from lorac.other_names import field_of
from lorac.rules import Rule, check, got_words
from runtime.errors import Problem, SpecError

SEE = "`lorac spec` lists every field with its range and default"

_T = TypeVar("_T")

_PLACES: dict[str, dict[str, None]] = {}
"""A field's name -> the places that have one of that name, in the order of their parts."""


@attrs.frozen
class Found:
    """A problem of a spec with the call and the field where it is."""

    what: str
    hint: str
    origin: Origin | None
    names: tuple[str | int, ...] = ()
    element: int | None = None

    @property
    def line(self) -> int:
        """Line in the origin's file; 0 where it is not known."""
        return self.origin.line_of(*self.names, element=self.element) if self.origin else 0

    def problem(self) -> Problem:
        """As it is told."""
        return Problem(f"{self.origin.file}:{self.line}" if self.origin else "", self.what, self.hint)


@attrs.frozen
class Check:
    """A rule across fields: looked at only where the fields it reads are sound by themselves.

    `find` yields (the part to blame, its field, what is wrong, a hint).
    """

    reads: tuple[str, ...]
    find: Callable[[Any], Iterable[tuple[Any, str, str, str]]]


def reads(*fields: str) -> Callable[[Callable[[Any], Iterable[tuple[Any, str, str, str]]]], Check]:
    """Make a function a check of these fields."""
    return lambda find: Check(fields, find)


_collected: ContextVar[list[Found] | None] = ContextVar("lorac_spec_problems", default=None)


@contextmanager
def collecting() -> Iterator[list[Found]]:
    """Collect the problems of parts made inside instead of raising them."""
    found: list[Found] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def setting(
    rule: Rule, doc: str, *, default: Any = attrs.NOTHING, default_words: str = "", kw_only: bool = True
) -> Any:
    """A field: its rule, its meaning, its default (none: it must be given), in words if it is computed."""
    metadata = {"rule": rule, "doc": doc, "default_words": default_words}
    return attrs.field(default=default, kw_only=kw_only, metadata=metadata)


def rule_of(cls: type, field: str) -> Rule:
    """The rule of a part's field."""
    return cast(Rule, attrs.fields_dict(cls)[field].metadata["rule"])


def default_of(cls: type, field: str) -> Any:
    """What a part's field is where nothing is said."""
    return attrs.fields_dict(cls)[field].default


def where(part_: Any, field: str | None = None) -> str:
    """`file:line` of a part's field in the file that made it; empty where that is not known."""
    origin: Origin | None = part_._origin
    if origin is None:
        return ""
    return f"{origin.file}:{origin.line_of(*(_names(type(part_), field) if field else ()))}"


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def part(place: str, *checks: Check) -> Callable[[type[_T]], type[_T]]:
    """Make a class a part of the spec. `place` is its path in an Experiment ("adapter"), as errors say it."""

    def wrap(cls: type[_T]) -> type[_T]:
        made = attrs.define(frozen=True, slots=False, init=False)(cls)

        def __init__(self: Any, /, *args: Any, **given: Any) -> None:
            _build(self, place, checks, args, given)

        __init__.__wrapped__ = made.__attrs_init__  # type: ignore[attr-defined]  # for help()
        made.__init__ = __init__  # type: ignore[method-assign, assignment]
        made.PLACE = place  # type: ignore[attr-defined]
        for field in attrs.fields(cast(Any, made)) if place != "Auto" else ():
            _PLACES.setdefault(field.name, {})[f"{place}.{field.name}" if place else field.name] = None
        return made

    return wrap


def _build(
    self: Any, place: str, checks: Iterable[Check], args: tuple[Any, ...], given: dict[str, Any]
) -> None:
    origin = caller()
    dotted = f"{place}." if place else ""
    found: list[Found] = []
    values = _named(type(self), args, given, origin, dotted, found)
    broken = {f.name for f in attrs.fields(type(self)) if f.default is attrs.NOTHING and f.name not in values}
    values |= dict.fromkeys(broken)
    for field in attrs.fields(type(self)):
        if field.name not in values or field.name in broken:
            continue
        rule, names = field.metadata["rule"], _names(type(self), field.name)
        value = _lifted(rule, values[field.name], field.name, origin, found)
        keep, wrongs = check(rule, value, Auto)
        for wrong in wrongs:
            index = "" if wrong.element is None else f"[{wrong.element}]"
            what = f"{dotted}{field.name}{index} {wrong.what}"
            found.append(Found(what, wrong.hint or SEE, origin, names, wrong.element))
        if wrongs or not getattr(keep, "_sound", True):
            broken.add(field.name)
        elif type(keep) is Auto:
            keep = _bounded(rule, keep, field.default)
        values[field.name] = keep
    self.__attrs_init__(**values)
    object.__setattr__(self, "_origin", origin)
    for one in checks:
        if broken.isdisjoint(one.reads):
            found += [_blamed(*disagreement, origin) for disagreement in one.find(self)]
    object.__setattr__(self, "_sound", not found and not broken)
    _report(found)


def _blamed(owner: Any, field: str, what: str, hint: str, origin: Origin | None) -> Found:
    dotted = f"{owner.PLACE}." if owner.PLACE else ""
    return Found(f"{dotted}{field} {what}", hint, owner._origin or origin, _names(type(owner), field))


def _named(
    cls: type,
    args: tuple[Any, ...],
    given: dict[str, Any],
    origin: Origin | None,
    dotted: str,
    found: list[Found],
) -> dict[str, Any]:
    """The arguments by field name; what fits no field, and what is missing, goes to `found`."""
    fields = attrs.fields(cls)
    names = [field.name for field in fields]
    positional = [field.name for field in fields if not field.kw_only]
    values = dict(zip(positional, args, strict=False))
    if len(args) > len(positional):
        most = f"only {', '.join(positional)}" if positional else "nothing"
        found.append(
            Found(
                f"{cls.__name__} takes {most} without a name, got {len(args)} unnamed values",
                f"name each value: {cls.__name__}({names[len(positional)]}=…)",
                origin,
                (len(positional),),
            )
        )
    meant = set()
    for name, value in given.items():
        if name in values:
            found.append(Found(f"{dotted}{name} is given twice", "keep one of the two", origin, (name,)))
        elif name in names:
            values[name] = value
        else:
            meant.update(likely(name, names, dotted))
            found.append(Found(*no_field(cls, name, names, dotted), origin, (name,)))
    for field in fields:
        if field.default is attrs.NOTHING and field.name not in values and field.name not in meant:
            what = f"{dotted}{field.name} is missing"
            found.append(Found(what, f"give {cls.__name__}(…) its {field.name}", origin))
    return values


def likely(name: str, names: Sequence[str], dotted: str) -> list[str]:
    """The field of a part that a wrong name stands for, at most one: as another trainer calls it, or misspelt.

    `dotted` is the part's place: "train.", or "" for the experiment.
    """
    known = field_of(name)
    if known:
        inside = known.removeprefix(dotted)
        return [inside] if inside in names else []
    return [] if name in _PLACES else difflib.get_close_matches(name, names, n=1)


def no_field(cls: type, name: str, names: Sequence[str], dotted: str) -> tuple[str, str]:
    """What is wrong with a name that is none of a part's `names`, and a hint."""
    what = f"{cls.__name__} has no field `{name}`"
    if near := likely(name, names, dotted):
        return f"{what}; did you mean `{near[0]}`?", SEE
    if elsewhere := [field_of(name)] if field_of(name) else list(_PLACES.get(name, ())):
        return f"{what}; there is {' and '.join(elsewhere)}", SEE
    return what, f"{cls.__name__} has {', '.join(names)}"


def _names(cls: type, field: str) -> tuple[str | int, ...]:
    """How a call may write a field: by its name, or unnamed at its place."""
    positional = [one.name for one in attrs.fields(cls) if not one.kw_only]
    return (field, positional.index(field)) if field in positional else (field,)


def _lifted(rule: Rule, value: Any, name: str, origin: Origin | None, found: list[Found]) -> Any:
    """A plain path where a part is wanted stands for that part."""
    if not rule.lift or not (type(value) is str or isinstance(value, PurePath)):
        return value
    here = attrs.evolve(origin, within=name) if origin else None
    with collecting() as inner:
        lifted = rule.type(value)
    object.__setattr__(lifted, "_origin", here)
    found += [attrs.evolve(one, origin=here) for one in inner]
    return lifted


def _bounded(rule: Rule, auto: Auto, default: Any) -> Auto:
    """`Auto()` alone is the field's default; one bound alone goes as far as the field's own range."""
    if auto == Auto():
        return default if type(default) is Auto else auto
    if rule.auto != "range":
        return auto
    low = rule.ge if auto.low is None else auto.low
    high = rule.le if auto.high is None else auto.high
    return Auto(low, high, prefer=auto.prefer)


def _report(found: list[Found]) -> None:
    if not found:
        return
    collected = _collected.get()
    if collected is None:
        raise SpecError([one.problem() for one in in_order(found)])
    collected.extend(found)


def in_order(found: Iterable[Found]) -> list[Found]:
    """Problems in the order of the file's lines."""
    return sorted(found, key=lambda one: (one.origin.file if one.origin else "", one.line))


# --------------------------------------------------------------------------------------------------- open


@reads("low", "high", "prefer")
def _ordered(auto: Auto) -> Iterator[tuple[Auto, str, str, str]]:
    low, high, prefer = auto.low, auto.high, auto.prefer
    if low is not None and high is not None and low > high:
        yield (
            auto,
            "low",
            f"must not be above high, got {got_words(low)} and {got_words(high)}",
            "swap the two",
        )
    elif prefer is not None and not (low is None or prefer >= low):
        yield auto, "prefer", f"must be at least low, {low}, got {prefer}", "prefer a value inside the bounds"
    elif prefer is not None and not (high is None or prefer <= high):
        yield (
            auto,
            "prefer",
            f"must be at most high, {high}, got {prefer}",
            "prefer a value inside the bounds",
        )


_BOUND = Rule(type=Real, none="as far as the field's own range goes")


@part("Auto", _ordered)
class Auto:
    """A value left to the planner, within bounds if they are given. `Auto()` alone is the field's default."""

    low: float | None = setting(_BOUND, "The least value that will do.", default=None, kw_only=False)
    high: float | None = setting(_BOUND, "The greatest value that will do.", default=None, kw_only=False)
    prefer: float | None = setting(_BOUND, "Taken if the card allows it.", default=None)
    choices: tuple[str | int, ...] = setting(
        Rule(type=object, many=True), "The words that will do.", default=()
    )

    def __repr__(self) -> str:
        bounds = [f"{bound:g}" for bound in (self.low, self.high) if bound is not None]
        if self.low is None and self.high is not None:
            bounds = [f"high={self.high:g}"]
        prefer = [f"prefer={self.prefer:g}"] if self.prefer is not None else []
        choices = [f"choices={self.choices!r}"] if self.choices else []
        return f"Auto({', '.join(bounds + prefer + choices)})"


def preferred(value: Any) -> Any:
    """A pinned value, or the one that an open range prefers (its high end if it says nothing)."""
    if not isinstance(value, Auto):
        return value
    return value.prefer if value.prefer is not None else value.high


@contextmanager
def at_field(part_: Any, field: str) -> Iterator[None]:
    """What a family has against a field of the spec is told at the field's own place."""
    try:
        yield
    except SpecError as error:
        place = spec_place(part_, field)
        raise SpecError([attrs.evolve(problem, where=place) for problem in error.problems]) from None


def spec_place(part: Any, field: str) -> str:
    """`file:line` of a spec's field, for errors that only planning finds."""
    return where(part, field) or f"{type(part).PLACE}.{field}"
