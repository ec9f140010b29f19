"""Plans, their differences and the spec's reference as text for a terminal, readable without colour."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorac.diff import MISSING, Change
from lorac.install import Installed
from lorac.reference import Row
from runtime import plan
from runtime.errors import visible
from runtime.human import clock, size

if TYPE_CHECKING:
    from lorac.explain import Change as MemoryChange
    from lorac.explain import Explained, Node
    from lorac.fit import Row as FitRow

INDENT = "  "
NARROWEST = 48
"""Columns below which nothing is laid out narrower; the terminal wraps instead."""
LAST = 28
"""Characters that a table's last column, the one with sentences, has before the others are wrapped narrower."""
FIRST = 12
"""Characters that the others keep."""
LARGEST = 8
"""Times the peak that a card is drawn at most."""
REJECTED_SHOWN = 4
CHANGES_SHOWN = 40
VALUE_SHOWN = 30
"""Characters of a decision's value before it is wrapped."""


# ------------------------------------------------------------------------------------------------------- plan


def plan_text(of: plan.Plan, path: Path, width: int, block: str = "█") -> str:
    """What was decided and why, the memory at the peak against the card, steps and time, what to do next."""
    unlocked = "" if of.program.locked else "  unlocked: planned without the base or the data"
    parts = [
        [f"{of.outputs.name}  plan {of.plan_hash[:12]}{unlocked}"],
        table([(d.field, d.value, d.reason) for d in of.estimate.decisions], width),
        memory(of.estimate, width, block),
        cost(of),
        rejected(of.estimate, width),
        [f"wrote {path}", f"{'run it' if of.program.locked else 'to run it'}: {next_step(of, path)}"],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def summary(of: plan.Plan, path: Path) -> str:
    """A plan in one line; of a run on a CPU with what its process takes in all, as the run will show it."""
    steps, seconds = of.program.train.steps, clock(of.estimate.seconds)
    peak = plan.planned_memory(of)
    return (
        f"Planned {path}: {steps:,} steps, about {seconds}, {size(peak)} of {size(of.estimate.usable_bytes)}"
    )


def next_step(of: plan.Plan, path: Path) -> str:
    """How the plan is run."""
    if of.program.locked:
        return f"lorac run {path}"
    return "put the base and the data where the spec says, then plan again without --unlocked"


def fill(estimate: plan.Estimate) -> str:
    """The peak against what the card lets us use."""
    peak, usable = estimate.peak_bytes, estimate.usable_bytes
    return f"{size(peak)} of {size(usable)} usable on {estimate.card} ({peak / max(1, usable):.0%})"


def highest(phases: Mapping[str, int]) -> str:
    """The phase with the highest peak."""
    return max(phases, key=lambda name: phases[name])


def cost(of: plan.Plan) -> list[str]:
    """Steps, time, host memory, disk, and the peak of each phase, the highest first."""
    estimate, steps = of.estimate, of.program.train.steps
    needs = [f"{size(estimate.host_bytes)} of the computer's memory"] if estimate.host_bytes else []
    needs += [f"{size(estimate.disk_bytes)} on disk"] if estimate.disk_bytes else []
    phases = sorted(estimate.phases.items(), key=lambda phase: (-phase[1], phase[0]))
    lines = {
        "steps": f"{steps:,} in {clock(estimate.seconds)}, {estimate.seconds_per_step:.3g} s each",
        "needs": ", ".join(needs),
        "peaks": ", ".join(f"{name} {size(peak)}" for name, peak in phases),
    }
    return [f"{name}   {words}" for name, words in lines.items() if words]


def memory(estimate: plan.Estimate, width: int, block: str) -> list[str]:
    """Memory by kind at the peak: one bar after the other, over the card's whole length."""
    kinds = sorted(estimate.by_kind.items(), key=lambda kind: (-kind[1], kind[0]))
    ends = [0, *itertools.accumulate(count for _, count in kinds)]
    rows = [(name, count, end, block) for (name, count), end in zip(kinds, ends[:-1], strict=True)]
    rows += [("peak", estimate.peak_bytes, 0, block), ("usable", estimate.usable_bytes, 0, "-")]
    if estimate.card_bytes != estimate.usable_bytes:
        rows.append(("card", estimate.card_bytes, 0, "="))
    label = max(len(name) for name, *_ in rows)
    sizes = max(len(size(count)) for _, count, *_ in rows)
    room = max(width, NARROWEST) - label - sizes - 3 * len(INDENT)
    # A peak that would be a speck on the card is drawn large; the card's bar then ends in an arrow.
    scale = max(min(estimate.card_bytes, LARGEST * estimate.peak_bytes), estimate.peak_bytes, 1)
    bars = [_bar(start, start + count, scale, room, mark) for _, count, start, mark in rows]
    phase = f" ({highest(estimate.phases)})" if estimate.phases else ""
    return [f"memory at the peak{phase}: {fill(estimate)}"] + [
        f"{INDENT}{name:<{label}}{INDENT}{size(count):>{sizes}}{INDENT}{bar}".rstrip()
        for (name, count, *_), bar in zip(rows, bars, strict=True)
    ]


def _bar(start: int, end: int, scale: int, room: int, mark: str) -> str:
    """A bar from `start` to `end` bytes, `scale` bytes to `room` characters: never nothing, never more."""
    left, right = round(start / scale * room), round(end / scale * room)
    if right > room:
        return " " * left + mark * (room - left - 1) + ">"
    left = min(left, room - 1)
    return " " * left + mark * max(right - left, 1 if end > start else 0)


def rejected(estimate: plan.Estimate, width: int) -> list[str]:
    """The first points that were looked at and not taken."""
    if not estimate.rejected:
        return []
    shown = estimate.rejected[:REJECTED_SHOWN]
    rows = [(one.point, size(one.peak_bytes), one.reason) for one in shown]
    more = len(estimate.rejected) - len(shown)
    return ["not taken", *table(rows, width), *([f"{INDENT}and {more} more, in the plan"] if more else [])]


# ----------------------------------------------------------------------------------------------- fit, explain


def fit_text(rows: Sequence[FitRow], width: int) -> str:
    """A line for each card, experiment by experiment; below, what would help where nothing fits."""
    parts: dict[str, list[FitRow]] = {}
    for row in rows:
        parts.setdefault(row.name, []).append(row)
    unit = "pixels" if all(row.resolution for row in rows) else "tokens"
    head = ("card", "rank", unit, "micro × accum.", "recomputed", "peak / usable", "time")
    blocks = []
    for name, of in parts.items():
        lines = [name, *table([head, *map(_fit_cells, of)], width)]
        for row in of:
            if not row.fits:
                lines += _wrapped(f"{row.card}: {row.why}", width, INDENT, INDENT * 2)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _fit_cells(row: FitRow) -> tuple[str, ...]:
    memory_ = f"{size(row.peak_bytes)} / {size(row.usable_bytes)}"
    if row.seconds is None:
        return (row.card, "-", str(row.resolution or row.length), "does not fit", "-", memory_, "-")
    batch = f"{row.micro_batch} × {row.accumulation} = {row.effective_batch}"
    return (
        row.card,
        str(row.rank),
        str(row.resolution or row.length),
        batch,
        f"{row.checkpointed} blocks" if row.checkpointed else "none",
        memory_,
        clock(row.seconds),
    )


def explain_text(of: Explained, width: int, block: str = "█") -> str:
    """Memory at the peak by kind and by module, then each change with what it buys."""
    room = f"{size(of.peak_bytes)} of {size(of.usable_bytes)} usable on {of.card}"
    kinds = sorted(of.by_kind.items(), key=lambda kind: (-kind[1], kind[0]))
    phase = highest(of.phases)
    parts = [
        [
            f"{of.name}  plan {of.plan_hash[:12]}",
            *(line for note in of.notes for line in _wrapped(note, width, INDENT, INDENT)),
        ],
        [f"at the peak ({phase}): {room}", *_shares(kinds, of.peak_bytes, width, block)],
        ["by module, of what is live then", *_shares(_leaves(of.modules), of.modules.bytes, width, block)],
        [
            f"what a change would buy, against {size(of.peak_bytes)} and {of.seconds_per_step:.3g} s a step",
            *table([CHANGE_HEAD, *(_change_cells(one, of) for one in of.changes)], width),
            *_wrapped(CHANGE_NOTE, width, INDENT, INDENT),
        ],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


CHANGE_HEAD = ("change", "peak", "", "s a step", "", "room left")
CHANGE_NOTE = "each was traced itself; micro-batch, recomputed and offloaded blocks leave the result as it is"


def _change_cells(one: MemoryChange, of: Explained) -> tuple[str, ...]:
    more, slower = one.peak_bytes - of.peak_bytes, one.seconds_per_step / of.seconds_per_step - 1
    return (
        one.what,
        size(one.peak_bytes),
        f"{'+' if more >= 0 else '-'}{size(abs(more))}",
        f"{one.seconds_per_step:.3g}",
        f"{slower:+.0%}",
        f"{'' if one.fits else '-'}{size(abs(of.usable_bytes - one.peak_bytes))}",
    )


def _leaves(node: Node, depth: int = 0) -> Iterator[tuple[str, int]]:
    """The tree's lines below its root, each part indented under its whole."""
    for part in node.parts:
        yield f"{INDENT * depth}{part.name}", part.bytes
        yield from _leaves(part, depth + 1)


def _shares(rows: Iterable[tuple[str, int]], whole: int, width: int, block: str) -> list[str]:
    """Bytes with their share of the whole as a bar."""
    rows = list(rows)
    label = max(len(name) for name, _ in rows)
    room = max(width, NARROWEST) - label - 11 - 4 - 4 * len(INDENT)
    return [
        f"{INDENT}{name:<{label}}{INDENT}{size(count):>11}{INDENT}{count / max(1, whole):>4.0%}{INDENT}"
        f"{_bar(0, count, max(1, whole), room, block)}".rstrip()
        for name, count in rows
    ]


# ----------------------------------------------------------------------------------------- changes, reference


def changes_text(changes: Sequence[Change], width: int) -> str:
    """Two plans' differences, a line for each field."""
    if not changes:
        return "the plans are the same"
    lines = []
    for change in changes[:CHANGES_SHOWN]:
        before, after = (_shown(change.field, value) for value in (change.before, change.after))
        lines += _wrapped(f"{change.field}: {before} -> {after}", width, INDENT, INDENT * 3)
    if len(changes) > CHANGES_SHOWN:
        lines.append(f"{INDENT}and {len(changes) - CHANGES_SHOWN} more")
    same = not any(change.field.startswith("program.") for change in changes)
    verdict = "the same bytes are trained" if same else "the trained bytes differ"
    return "\n".join([*lines, verdict])


def reference_text(rows: Iterable[Row], width: int) -> str:
    """Every field of a spec with its range, default and meaning, part by part."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.field.rpartition(".")[0], []).append(row)
    return "\n\n".join("\n".join(_part_lines(part, fields, width)) for part, fields in parts.items())


def _part_lines(part: str, fields: Sequence[Row], width: int) -> list[str]:
    lines = [f"{part} = {fields[0].part}(…)" if part else f"{fields[0].part}(…)"]
    for row in fields:
        name, unit = row.field.rpartition(".")[2], f" ({row.unit})" if row.unit else ""
        default = row.default if row.default == "required" else f"default {row.default}"
        lines += _wrapped(f"{name}{unit}: {row.takes}; {default}", width, INDENT, INDENT * 3)
        lines += _wrapped(row.doc, width, INDENT * 3, INDENT * 3)
    return lines


def _shown(field: str, value: Any) -> str:
    """A plan's value as people read it: bytes and seconds in units."""
    if value is MISSING:
        return "(none)"
    if re.search(r"_bytes$|\.by_kind\.|\.phases\.", field):
        several = value if isinstance(value, list) else [value]
        return ", ".join(map(size, several)) or "(none)"
    if field == "estimate.seconds":
        return clock(value)
    if type(value) is float:
        return f"{value:.4g}"
    return repr(value) if isinstance(value, str) and not value else visible(str(value))


def installed_text(done: Installed) -> str:
    """What was copied where, and how the LoRA is called."""
    copied = f"copied {', '.join(done.copied)} to {done.folder}" if done.copied else ""
    kept = f"{', '.join(done.kept)} already in {done.folder}" if done.kept else ""
    return "\n".join(visible(line) for line in (copied, kept, f"call it: {done.call}") if line)


# ------------------------------------------------------------------------------------------------------ table


def table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Columns side by side, the last one wrapped into what the width leaves; a path or a hash in it stays whole."""
    if not rows:
        return []
    clean = [[visible(cell) for cell in row] for row in rows]
    columns = list(zip(*clean, strict=True))
    widths = [min(max(map(len, column)), VALUE_SHOWN) for column in columns[:-1]]
    room = max(width, NARROWEST) - len(INDENT) * len(columns)
    last = min(LAST, max(map(len, columns[-1])))
    while room - sum(widths) < last and max(widths, default=0) > FIRST:
        widths[widths.index(max(widths))] -= 1
    widths.append(max(room - sum(widths), FIRST))
    lines = []
    for row in clean:
        cells = [
            textwrap.wrap(cell, w, break_on_hyphens=False, break_long_words=place < len(widths) - 1) or [""]
            for place, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            joined = INDENT.join(f"{part:<{w}}" for part, w in zip(parts, widths, strict=True))
            lines.append(f"{INDENT}{joined}".rstrip())
    return lines


def _wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, max(width, NARROWEST), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
