"""Findings as a person reads them: the worst first, fault by fault, the first files of each, and what to do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from lorac.check import Finding
from lorac.check.fix import Change
from runtime.errors import visible

SHOWN = 3
"""Files of a fault, and changes, that are printed; the rest are counted."""


def findings_text(place: str, of: str, findings: Sequence[Finding]) -> str:
    """All findings about `of` ("95 pictures") in `place`."""
    if not findings:
        return visible(f"{place}: {of}, nothing found")
    by_fault: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_fault[finding.fault].append(finding)
    levels = Counter(one.level for one in findings)
    counts = ", ".join(_counted(count, level) for level, count in levels.items())
    lines = [visible(f"{place}: {of}, {counts}")]
    for fault, these in by_fault.items():
        lines += ["", f"{these[0].level}: {fault} ({len(these):,})"]
        lines += [visible(f"  {one.file}: {one.what}") for one in these[:SHOWN]]
        lines += _rest(len(these) - SHOWN)
        lines += [
            visible(f"  -> {advice}")
            for advice in dict.fromkeys(one.advice for one in these[:SHOWN])
            if advice
        ]
    return "\n".join(lines)


def changes_text(out: str, kept: int, changes: Sequence[Change]) -> str:
    """What a cleaned copy at `out` holds, and what was changed for it."""
    lines = [
        visible(f"wrote {out}: {_counted(kept, 'picture')}, {_counted(len(changes), 'change')} (changes.csv)")
    ]
    lines += [visible(f"  {one.file}: {one.done}") for one in changes[:SHOWN]]
    return "\n".join([*lines, *_rest(len(changes) - SHOWN)])


def _rest(count: int) -> Iterator[str]:
    if count > 0:
        yield f"  and {count:,} more; --json lists all"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"
