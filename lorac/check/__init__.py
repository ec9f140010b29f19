"""`lorac check`: what is wrong with a data set, fault by fault, each with the file and what to do. No torch.

Three levels, as linters have them: an error is what `lorac plan` refuses, or what makes a figure a lie; a warning will
train badly; a note is what is mended while training, or what may be meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

import attrs

from lorac.check import balance, borders, captions, colour, files, shape, sharpness, twins
from lorac.check.scan import Scan
from runtime.errors import Problem

Level = Literal["error", "warning", "note"]
_S = TypeVar("_S")
Faults = Mapping[Level, Mapping[str, Callable[[_S], Iterable[Problem]]]]
"""Level -> name -> the check that finds it, in the order of the report: the worst first."""

FAULTS: Faults[Scan] = {
    "error": {
        "unreadable": files.unreadable,
        "animated": files.animated,
        "not-taken": files.not_taken,
        "mask": files.wrong_masks,
        "duplicate": twins.duplicates,
        "caption-missing": captions.missing,
        "caption-empty": captions.empty,
        "caption-unusable": captions.unusable,
    },
    "warning": {
        "near-duplicate": twins.near_duplicates,
        "caption-without-trigger": captions.without_trigger,
        "caption-repeated": captions.repeated,
        "caption-vague": captions.vague,
        "caption-too-long": captions.too_long,
        "too-small": shape.too_small,
        "too-long": shape.too_long,
        "blurred": sharpness.blurred,
        "border": borders.borders,
        "see-through": colour.see_through,
        "unbalanced": balance.unbalanced,
    },
    "note": {
        "grey": colour.grey,
        "turned": colour.turned,
        "colour-profile": colour.profiled,
        "cmyk": colour.cmyk,
        "16-bit": colour.deep,
    },
}
"""Of a folder of pictures. The closed registry."""


@attrs.frozen
class Finding:
    """One fault of one file (or of the set): how bad, its name in a registry, where, what is wrong, what to do."""

    level: Level
    fault: str
    file: str
    what: str
    advice: str


def check(faults: Faults[_S], seen: _S) -> list[Finding]:
    """All that is wrong with a data set, the worst first."""
    return [
        Finding(level, fault, one.where, one.what, one.hint)
        for level, these in faults.items()
        for fault, look in these.items()
        for one in look(seen)
    ]


def fails(findings: Iterable[Finding], strict: bool) -> bool:
    """Whether a data set is not to be trained on: it has errors, or with `strict` warnings."""
    return any(one.level == "error" or (strict and one.level == "warning") for one in findings)
