"""What a field may hold, as data: the errors, `lorac spec` and the tests' strategies are all made from it.

- Strict: `True` is no number, numbers are finite, a numpy scalar is refused; an int will do for a float.
- A list is taken for a tuple, and its elements are looked at one by one.
- Nothing here raises: `check` gives the value as it will be kept, and what is wrong with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import PurePath
from typing import Any, Literal

import attrs

LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats."""

UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, marks that turn the writing's direction, halves of a character."""

AutoKind = Literal["no", "open", "range", "choice"]
"""What may be left to the planner: nothing, `Auto()`, `Auto(low, high, prefer=…)`, `Auto(choices=…)`."""


@attrs.frozen(kw_only=True)
class Rule:
    """One field's type and range. `type` is int, float, str, bool, PurePath (kept as text) or a part's class.

    `choices` and `regex` (a full match, told as `regex_means`) are alternatives where both are given. `many`
    makes it a tuple of such values; `keyed` a mapping from text to such values, and says what the text is.
    `none` says what None means; empty where None is refused. With `lift` a plain path stands for the part.
    `longest` counts characters. `unit` is for people. `others` are classes that will do besides `type`; with
    `many` a single one of these parts will do for a tuple.
    """

    others: tuple[type, ...] = ()
    type: type
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    multiple_of: int | None = None
    choices: tuple[str | int, ...] = ()
    regex: str = ""
    regex_means: str = ""
    longest: int = 0
    lines: bool = False
    many: bool = False
    keyed: str = ""
    none: str = ""
    auto: AutoKind = "no"
    lift: bool = False
    unit: str = ""


@attrs.frozen
class Wrong:
    """What is wrong: "must be …, got …". `element` is the place in a tuple, None for the whole."""

    what: str
    element: int | None = None
    hint: str = ""


def whole(**limits: Any) -> Rule:
    """An int."""
    return Rule(type=int, **limits)


def number(**limits: Any) -> Rule:
    """A finite float; an int will do."""
    return Rule(type=float, **limits)


def flag(**limits: Any) -> Rule:
    """True or False."""
    return Rule(type=bool, **limits)


def text(**limits: Any) -> Rule:
    """Text: one line, at most 1000 characters, unless said otherwise."""
    return Rule(**{"type": str, "longest": 1000, **limits})


def choice(*choices: str | int, **limits: Any) -> Rule:
    """One of these words (or of these whole numbers)."""
    return Rule(type=type(choices[0]), choices=choices, **limits)


def a_path(**limits: Any) -> Rule:
    """A path as text (a pathlib path will do)."""
    return Rule(**{"type": PurePath, "longest": 4096, **limits})


def a_part(cls: type, **limits: Any) -> Rule:
    """Another part of the experiment."""
    return Rule(type=cls, **limits)


# ------------------------------------------------------------------------------------------------- words


def type_words(rule: Rule) -> str:
    """The type as people say it."""
    if rule.many:
        many = {str: "a tuple of texts", int: "a tuple of whole numbers", PurePath: "a tuple of paths"}.get(
            rule.type
        )
        return many or _parts_words(rule) + (", or a tuple of those" if rule.others else " in a tuple")
    names = {int: "a whole number", float: "a number", bool: "True or False", PurePath: "a path"}
    if rule.type in names:
        return names[rule.type]
    if rule.type is str:
        return "text" if rule.lines else "one line of text"
    return _parts_words(rule) + (" or a path" if rule.lift else "")


def _parts_words(rule: Rule) -> str:
    names = [cls.__name__ for cls in (rule.type, *rule.others)]
    words = [f"{'an' if name[0] in 'AEIOU' else 'a'} {name}(…)" for name in names]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def range_words(rule: Rule) -> str:
    """The range as people say it; empty where there is none."""
    if rule.choices or rule.regex:
        words = [_shown(word) for word in rule.choices] + ([rule.regex_means] if rule.regex else [])
        return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    low = (
        f"at least {rule.ge:g}"
        if rule.ge is not None
        else f"more than {rule.gt:g}"
        if rule.gt is not None
        else ""
    )
    high = (
        f"at most {rule.le:g}"
        if rule.le is not None
        else f"less than {rule.lt:g}"
        if rule.lt is not None
        else ""
    )
    if rule.ge is not None and rule.le is not None:
        words_ = f"between {_plain(rule.ge)} and {_plain(rule.le)}"
    else:
        words_ = " and ".join(filter(None, [low, high]))
    if rule.multiple_of:
        words_ = f"a multiple of {rule.multiple_of} {words_}".strip()
    return words_


def _shown(word: str | int) -> str:
    return f'"{word}"' if isinstance(word, str) else str(word)


def _plain(limit: float) -> str:
    return str(int(limit)) if float(limit).is_integer() else f"{limit:g}"


def wanted(rule: Rule) -> str:
    """Type and range together: what a value must be."""
    if rule.keyed:
        return f"a mapping from {rule.keyed} to {wanted(attrs.evolve(rule, keyed=''))}"
    extent = range_words(rule)
    if rule.choices or rule.regex or rule.multiple_of:
        return extent
    return type_words(rule) + (
        f" {extent}" if extent.startswith("between") else f", {extent}" if extent else ""
    )


def else_words(rule: Rule) -> str:
    """What a field takes besides a value of its own type, as ` or …`."""
    autos = {"no": "", "open": " or Auto()", "range": " or Auto(low, high)", "choice": " or Auto(choices=…)"}
    return autos[rule.auto] + (" or None" if rule.none else "")


def got_words(value: object) -> str:
    """A wrong value as a message repeats it: its type is named where it would not show."""
    kind = type(value)
    if kind in (int, float, bool, type(None)):
        shown = repr(value)
    elif kind is str:
        shown = f"text {value!r}"
    elif kind.__module__.split(".")[0] in ("numpy", "torch"):
        shown = f"{kind.__module__.split('.')[0]} {kind.__name__} {value!s}"
    elif isinstance(value, list | tuple | dict | set | PurePath):
        shown = f"{kind.__name__} {value!r}"
    else:
        shown = (
            f"a class, {value.__name__}" if isinstance(value, type) else f"an object of type {kind.__name__}"
        )
    return shown if len(shown) <= LONGEST_SHOWN else shown[: LONGEST_SHOWN - 1] + "…"


# ------------------------------------------------------------------------------------------------- check


def check(rule: Rule, value: Any, auto: type) -> tuple[Any, list[Wrong]]:
    """The value as it is kept, and what is wrong with it. `auto` is the class that leaves it open."""
    if value is None and rule.none:
        return value, []
    if type(value) is auto and rule.auto != "no":
        return value, list(_wrong_auto(rule, value, auto))
    if rule.keyed:
        return _check_keyed(rule, value)
    if not rule.many or isinstance(value, rule.others or ()) or (rule.others and type(value) is rule.type):
        return _check_one(rule, value)
    if not isinstance(value, list | tuple):
        hint = _single_hint(rule, value) if isinstance(value, str | PurePath) else ""
        return value, [Wrong(f"must be {wanted(rule)}, got {got_words(value)}", hint=hint)]
    kept, wrongs = [], []
    for index, element in enumerate(value):
        clean, found = _check_one(attrs.evolve(rule, many=False, none="", auto="no"), element)
        kept.append(clean)
        wrongs += [attrs.evolve(wrong, element=index) for wrong in found]
    return tuple(kept), wrongs


def _single_hint(rule: Rule, value: str | PurePath) -> str:
    """What to write instead of one text where several values are wanted."""
    if rule.type is str:
        return "put a comma after a single one: (value,)"
    return f'say what it is: {rule.type.__name__}("{value}"), or another of those'


def _check_keyed(rule: Rule, value: Any) -> tuple[Any, list[Wrong]]:
    """A mapping is kept as a tuple of its pairs, which nobody can change; such a tuple will do, too."""
    pairs = value.items() if type(value) is dict else value if type(value) is tuple else [value]
    if not all(type(pair) is tuple and len(pair) == 2 and type(pair[0]) is str and pair[0] for pair in pairs):
        return value, [Wrong(f"must be {wanted(rule)}, got {got_words(value)}", hint=_type_hint(value))]
    kept, wrongs = [], []
    for key, element in pairs:
        clean, found = _check_one(attrs.evolve(rule, keyed=""), element)
        kept.append((key, clean))
        wrongs += [attrs.evolve(wrong, what=f"at {key!r} {wrong.what}") for wrong in found]
    return tuple(kept), wrongs


def _check_one(rule: Rule, value: Any) -> tuple[Any, list[Wrong]]:
    if rule.type is object:
        return value, []
    if rule.type is Real:
        return _check_real(value)
    if rule.type is float and type(value) is int:
        wrong = _wrong_number(rule, value)
        return (value, [Wrong(wrong)]) if wrong else (float(value), [])
    if rule.type is PurePath and isinstance(value, PurePath):
        value = value.as_posix()
    want = str if rule.type is PurePath else rule.type
    if type(value) is not want and type(value) not in rule.others:
        wrong = f"must be {wanted(rule)}{else_words(rule)}, got {got_words(value)}"
        return value, [Wrong(wrong, hint=_type_hint(value))]
    wrong = (
        _wrong_text(rule, value)
        if want is str
        else _wrong_number(rule, value)
        if want in (int, float)
        else ""
    )
    return value, [Wrong(wrong)] if wrong else []


def _check_real(value: Any) -> tuple[Any, list[Wrong]]:
    """A bound of an Auto: an int stays an int, for the field it is used in decides."""
    if type(value) not in (int, float):
        return value, [Wrong(f"must be a number or None, got {got_words(value)}", hint=_type_hint(value))]
    return value, [] if math.isfinite(value) else [Wrong(f"must be a finite number, got {value!r}")]


def _type_hint(value: object) -> str:
    if type(value).__module__.split(".")[0] in ("numpy", "torch"):
        return "make it a plain Python value: value.item()"
    return ""


def _wrong_number(rule: Rule, value: Any) -> str:
    if rule.choices:
        return "" if value in rule.choices else f"must be {range_words(rule)}, got {got_words(value)}"
    if type(value) is float and not math.isfinite(value):
        return f"must be a finite number {range_words(rule)}, got {value!r}".replace("  ", " ")
    inside = (
        (rule.ge is None or value >= rule.ge)
        and (rule.gt is None or value > rule.gt)
        and (rule.le is None or value <= rule.le)
        and (rule.lt is None or value < rule.lt)
        and (rule.multiple_of is None or value % rule.multiple_of == 0)
    )
    return "" if inside else f"must be {range_words(rule)}, got {got_words(value)}"


def _wrong_text(rule: Rule, value: Any) -> str:
    if rule.choices or rule.regex:
        fits = value in rule.choices or bool(rule.regex and re.fullmatch(rule.regex, value))
        return "" if fits else f"must be {range_words(rule)}, got {got_words(value)}"
    if rule.type is PurePath and not value.strip():
        return "must not be empty"
    if len(value) > rule.longest:
        return f"must be at most {rule.longest} characters, got {len(value)}"
    if UNSHOWN.search(re.sub(r"[\n\t]", "", value) if rule.lines else value):
        lines = "text" if rule.lines else "one line of text"
        return f"must be {lines} without control characters, got {got_words(value)}"
    return ""


def _wrong_auto(rule: Rule, value: Any, auto: type) -> Iterator[Wrong]:
    """What is wrong with an Auto in this field: bounds of the wrong type or out of the field's own range."""
    bounds = {"low": value.low, "high": value.high, "prefer": value.prefer}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if rule.auto == "open" and (given or value.choices):
        yield Wrong("may be left open as Auto() alone: it has no bounds of its own")
        return
    if rule.auto == "range" and value.choices:
        yield Wrong("takes Auto(low, high, prefer=…), not choices")
        return
    if rule.auto == "choice" and given:
        yield Wrong("takes Auto(choices=…), not bounds")
        return
    if len(set(value.choices)) < len(value.choices):
        yield Wrong("is Auto, whose choices name a word twice", hint="name each once")
        return
    plain = attrs.evolve(rule, auto="no", none="")
    named: Sequence[tuple[str, Any]] = [*given.items(), *(("choices", word) for word in value.choices)]
    for name, bound in named:
        for wrong in _check_one(plain, bound)[1]:
            yield Wrong(f"is Auto, whose {name} {wrong.what}", hint=wrong.hint)
