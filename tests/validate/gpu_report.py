"""What the GPU's rows come to: errors by figure, what was said to fit and did not, and docs/gpu.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import attrs

from lorac.estimate.cards import MARGIN, Card
from tests.validate.gpu_case import Case, Predicted
from tests.validate.gpu_measure import Measured

GB = 1e9

Outcome = Literal["done", "out of memory", "failed"]


@attrs.frozen(kw_only=True)
class Row:
    """A case: what was predicted, how it ended (`said` is a failure's last words) and, if it was done, the figures."""

    case: Case
    predicted: Predicted
    outcome: Outcome
    said: str = ""
    measured: Measured | None = None


@attrs.frozen(kw_only=True)
class Report:
    """A run of the grid. `machine` names the device, its driver and the packages; `grid` counts all cases."""

    command: str
    machine: dict[str, str]
    card: Card
    grid: int
    rows: tuple[Row, ...]


Figure = Callable[[Predicted, Measured], tuple[float, float]]
"""(predicted, measured) of one thing."""

FIGURES: dict[str, Figure] = {
    "allocated": lambda p, m: (p.allocated, m.allocated),
    "reserved": lambda p, m: (p.reserved, m.reserved),
    "total": lambda p, m: (p.total, m.total),
    "seconds a step": lambda p, m: (p.seconds, m.seconds),
    "allocator alone, allocated": lambda p, m: (m.replayed_allocated, m.recorded_allocated),
    "allocator alone, reserved": lambda p, m: (m.replayed_reserved, m.recorded_reserved),
}


def error(figure: str, predicted: Predicted, measured: Measured) -> float:
    """predicted / measured - 1."""
    said, was = FIGURES[figure](predicted, measured)
    return said / was - 1


def broken(report: Report) -> list[str]:
    """Every case that breaks "if the plan says it fits, it fits", in words.

    Either it was said to fit this card and ran out of memory, or it took so much more than was said that it would
    not have fitted a card with just the memory that was said and the margin.
    """
    found = []
    for row in report.rows:
        said = f"{row.predicted.total / GB:.3f} GB"
        if row.outcome == "out of memory" and row.predicted.total <= report.card.usable:
            found.append(
                f"{row.case}: said to take {said} of {report.card.usable / GB:.3f}, ran out of memory"
            )
        if row.measured and row.measured.total * (1 - MARGIN) > row.predicted.total:
            found.append(f"{row.case}: said to take {said}, took {row.measured.total / GB:.3f} GB")
    return found


def page(report: Report) -> str:
    """docs/gpu.md."""
    machine = report.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine.items() if name not in DEVICE)
    unfit = broken(report)
    return PAGE.format(
        command=report.command,
        device=machine["device"],
        driver=machine["driver"],
        packages=packages,
        done=sum(row.outcome == "done" for row in report.rows),
        grid=report.grid,
        summary="\n".join(summary(report.rows)),
        groups="\n".join(by_group(report.rows)),
        margin=f"{MARGIN:.0%}",
        broken="\n".join(f"- {line}" for line in unfit) if unfit else "None.",
        rows="\n".join(line(row) for row in sorted(report.rows, key=lambda row: str(row.case))),
        others="\n".join(ended_otherwise(report.rows)) or "None.",
    )


DEVICE = ("device", "driver")


def pairs(rows: Iterable[Row], figure: str = "") -> list[tuple[Predicted, Measured]]:
    """The figures of the rows that were done; for the allocator alone, of those whose recording it can be held to."""
    done = [(row.predicted, row.measured) for row in rows if row.measured]
    return [(p, m) for p, m in done if m.is_comparable or not figure.startswith("allocator alone")]


def summary(rows: Sequence[Row]) -> list[str]:
    """For each figure: how many rows, the median and the worst error by size, the largest underestimate."""
    lines = []
    for figure in FIGURES:
        errors = [error(figure, *pair) for pair in pairs(rows, figure)]
        if not errors:
            lines.append(f"| {figure} | 0 | | | |")
            continue
        sizes = [abs(one) for one in errors]
        under = -min(0.0, *errors)
        lines.append(
            f"| {figure} | {len(errors)} | {statistics.median(sizes):.2%} | {max(sizes):.2%} | {under:.2%} |"
        )
    return lines


def by_group(rows: Sequence[Row]) -> list[str]:
    """Median errors, with their signs, of the rows that share a model, a dtype and what is recomputed."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.measured:
            groups.setdefault((row.case.model, row.case.dtype, row.case.checkpointing), []).append(row)
    lines = []
    for (model, dtype, again), of in sorted(groups.items()):
        medians = [
            f"{statistics.median(error(figure, *pair) for pair in pairs(of)):+.2%}"
            for figure in ("allocated", "reserved", "total", "seconds a step")
        ]
        lines.append(f"| {model}, {dtype}, {again} recomputed | {len(of)} | {' | '.join(medians)} |")
    return lines


def line(row: Row) -> str:
    """A done case's figures, predicted / measured and the error; empty cells for any other."""
    if row.measured is None:
        return f"| {row.case} | {row.outcome} | | | | |"
    cells = []
    for figure in ("allocated", "reserved", "total", "seconds a step"):
        said, was = FIGURES[figure](row.predicted, row.measured)
        unit = 1.0 if figure == "seconds a step" else GB
        cells.append(
            f"{said / unit:.3f} / {was / unit:.3f} ({error(figure, row.predicted, row.measured):+.1%})"
        )
    alone = f"{error('allocator alone, reserved', row.predicted, row.measured):+.2%}"
    return f"| {row.case} | {' | '.join(cells)} | {alone if row.measured.is_comparable else ''} |"


def ended_otherwise(rows: Sequence[Row]) -> list[str]:
    """The cases that gave no figures, each with what was predicted and how it ended."""
    return [
        f"- {row.case}: predicted {row.predicted.total / GB:.3f} GB; {row.outcome}"
        + (f" ({row.said})" if row.said else "")
        for row in rows
        if row.measured is None
    ]


PAGE = """# Predicted against measured on a GPU

Made by `{command}` on one {device}, driver {driver}, with
{packages};
the rows as data are in `gpu.json`. {done} of the grid's {grid} cases were measured, each in a process of its own.

Real train steps on random weights: Stable Diffusion 1.x at its published size through the runtime's own step, and a
model of Llama-3.2-1B's size through the public tracer. "allocated" is `max_memory_allocated`, "reserved"
`max_memory_reserved`, "total" what the whole card lost to the process, its context included (so nothing else may run on
the card meanwhile); seconds are the median of ten steps after three. "allocator alone" replays the requests that
PyTorch's allocator recorded in that very run through `lorac/estimate/allocator.py`: what is off there is the
allocator's model, whatever is off more is the trace's (a row is left out there if its recording is not whole or of
several streams). GB are 10^9 bytes; an error is predicted / measured - 1.

## Errors

| figure | rows | median | worst | largest underestimate |
| --- | ---: | ---: | ---: | ---: |
{summary}

Medians by kind of case, with their signs:

| cases | rows | allocated | reserved | total | seconds |
| --- | ---: | ---: | ---: | ---: | ---: |
{groups}

## Said to fit, and did not

Cases that ran out of memory where the prediction was within what the card has to use, or that took more than was
predicted and the planner's margin of {margin} together:

{broken}

## No figures

{others}

## Every case

Predicted / measured.

| case | allocated GB | reserved GB | total GB | seconds a step | allocator alone |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}
"""
