"""`lorac check`: what is wrong with a data set, fault by fault, each with the file and what to do. No torch.

Nothing found here stops a plan: `lorac plan` refuses what cannot be trained on, this says what will not train well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from lorac.check import balance, borders, captions, colour, files, shape, sharpness, twins
from lorac.check.scan import Scan
from runtime.errors import Problem

FAULTS: dict[str, Callable[[Scan], Iterable[Problem]]] = {
    "unreadable": files.unreadable,
    "animated": files.animated,
    "not-taken": files.not_taken,
    "mask": files.wrong_masks,
    "duplicate": twins.duplicates,
    "near-duplicate": twins.near_duplicates,
    "too-small": shape.too_small,
    "too-long": shape.too_long,
    "blurred": sharpness.blurred,
    "border": borders.borders,
    "see-through": colour.see_through,
    "turned": colour.turned,
    "colour-profile": colour.profiled,
    "cmyk": colour.cmyk,
    "16-bit": colour.deep,
    "grey": colour.grey,
    "caption-missing": captions.missing,
    "caption-empty": captions.empty,
    "caption-unusable": captions.unusable,
    "caption-repeated": captions.repeated,
    "caption-vague": captions.vague,
    "caption-without-trigger": captions.without_trigger,
    "caption-too-long": captions.too_long,
    "unbalanced": balance.unbalanced,
}
"""Name -> the check of a folder of pictures that finds it, in the order of the report. The closed registry."""


@attrs.frozen
class Finding:
    """One fault of one file (or of the set): its name in a registry, where, what is wrong, what to do."""

    fault: str
    file: str
    what: str
    advice: str


def check(scan: Scan) -> list[Finding]:
    """All that is wrong with a folder of pictures."""
    return [as_finding(fault, one) for fault, look in FAULTS.items() for one in look(scan)]


def as_finding(fault: str, problem: Problem) -> Finding:
    return Finding(fault, problem.where, problem.what, problem.hint)
