"""Whether one kind of picture outweighs the others: by folder, else by the captions' subject words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lorac import captions
from lorac.check.scan import Scan
from lorac.data_folder import repeats_of
from runtime.errors import Problem

UNEVEN = 4.0
"""How many times as often as the smallest class the largest may be seen."""

EVERYWHERE = 0.9
"""Share of the captions from which on a part of theirs is the set's and no class: a trigger, a style."""

LEAST, LEAST_SHARE = 2, 0.05
"""Pictures of a class, and share of all: what a few captions happen to share is no class."""

MEND = "add pictures of the rare ones, or raise their repeats: a folder N_name is seen N times an epoch"


def unbalanced(scan: Scan) -> Iterator[Problem]:
    """One line for the set where its classes are uneven."""
    for of, counts in (("folders", _by_folder(scan)), ("subjects", _by_subject(scan))):
        if len(counts) > 1 and max(counts.values()) > UNEVEN * min(counts.values()):
            ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
            most, fewest = ranked[0], ranked[-1]
            what = f"its {of} are uneven: an epoch sees {most[0]!r} {most[1]:,}, {fewest[0]!r} {fewest[1]:,} times"
            yield Problem(scan.shown(""), what, MEND)


def _by_folder(scan: Scan) -> dict[str, int]:
    """First-level folder -> times that an epoch sees its pictures."""
    counts: Counter[str] = Counter()
    for name in scan.pictures:
        folder, inside, _ = name.partition("/")
        counts[folder if inside else "."] += max(1, repeats_of(name)[0])
    return dict(counts)


def _by_subject(scan: Scan) -> dict[str, int]:
    """Subject -> pictures. A caption's subject is the first of its parts between commas that makes a class."""
    parts = [
        [captions.clean(part).casefold() for part in caption.split(",")]
        for name, caption in scan.captions.items()
        if name in scan.pictures
    ]
    least = max(LEAST, LEAST_SHARE * len(parts))
    times = Counter(part for mine in parts for part in set(mine) if part)
    classes = {part for part, n in times.items() if least <= n < EVERYWHERE * len(parts)}
    subjects = Counter(next((part for part in mine if part in classes), "") for mine in parts)
    return {subject: n for subject, n in subjects.items() if subject and n >= least}
