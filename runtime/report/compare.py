"""`python -m runtime.report.compare RUN RUN …`: several runs side by side: what differs and what came of it as a table,
and with curves and last samples on one page."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime import plan
from runtime.ending import ended
from runtime.errors import Problem, SpecError, visible
from runtime.human import clock, columns, size
from runtime.report import page
from runtime.report.charts import Chart, Line, smooth, thinned
from runtime.report.gather import Row, Run, gather
from runtime.safeio import atomic, paths, strict_json

FILE = Path("compare.html")
CURVES = {
    "loss": ("Loss", "mean over neighbouring steps", ""),
    "held_out/loss": ("Held-out loss", "on samples that are never trained on", ""),
    "grad_norm": ("Gradient norm", "before clipping, mean over neighbouring steps", ""),
    "memory": ("Memory", "in use", "bytes"),
    "seconds": ("Seconds a step", "mean over neighbouring steps", "seconds"),
}
NOISY = ("loss", "grad_norm", "seconds")
MOST = 4
"""Runs at most: as many as there are colours that can be told apart."""
UNFOLDED = 10_000
"""Columns of a table where there is no terminal: a row is one line."""


def compared(runs: Sequence[Run]) -> str:
    """The page."""
    names = labels(runs)
    heads = ("what", *names)
    return page.page(
        "compare.html.jinja",
        live="",
        names=names,
        heads=heads,
        figures=[(name, *row) for name, row in figures(runs).items()],
        settings=list(differing(runs)),
        charts=charts(runs, names),
        rows=[
            (name, *last) for name, run in zip(names, runs, strict=True) if (last := _last(run)) is not None
        ],
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names, with the beginning of the plan's hash where two are called the same."""
    names = [run.name for run in runs]
    return [f"{run.name} {run.plan.plan_hash[:6]}" if names.count(run.name) > 1 else run.name for run in runs]


def measured(run: Run) -> dict[str, float | None]:
    """What came out of a run, in seconds and bytes; None where it was not measured, or the run has not ended."""
    seen = run.metrics
    return {
        "steps": run.step,
        "planned_steps": run.plan.program.train.steps,
        "loss": _at_end(run, "loss"),
        "held_out_loss": _at_end(run, "held_out/loss"),
        "seconds": sum(p.value for p in seen.get("seconds", ())),
        "memory_bytes": max((p.value for p in seen.get("memory", ())), default=None),
        "file_bytes": sum(f.size for f in run.manifest.files[:1]) if run.manifest else None,
    }


def figures(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What came out, as people read it, a row a figure; one that no run has is left out."""
    found: dict[str, list[str]] = {}
    for of in map(measured, runs):
        for name, value, say in (
            ("steps", of["steps"], lambda steps, of=of: f"{steps:,} of {of['planned_steps']:,}"),
            ("last loss", of["loss"], "{:.4g}".format),
            ("last held-out loss", of["held_out_loss"], "{:.4g}".format),
            ("time in steps", of["seconds"], clock),
            ("memory, most", of["memory_bytes"], size),
            ("file", of["file_bytes"], size),
        ):
            found.setdefault(name, []).append("" if value is None else say(value))
    return {name: row for name, row in found.items() if any(row)}


def _at_end(run: Run, name: str) -> float | None:
    points = run.metrics.get(name, ())
    few = points[-20:] if name in NOISY else points[-1:]
    return sum(p.value for p in few) / len(few) if few else None


def differing(runs: Sequence[Run]) -> Iterator[tuple[str, ...]]:
    """The settings of the plans' programs that are not the same in all runs."""
    flat = [dict(_flat(plan.unstructure(run.plan.program), "")) for run in runs]
    for name in dict.fromkeys(name for one in flat for name in one):
        values = [one.get(name, "") for one in flat]
        if len(set(values)) > 1:
            yield (name, *values)


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Settings by dotted name; lists count their parts, as a data set's pictures are no setting."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, f"{len(value)}"
    else:
        text = str(value)
        yield name, text if len(text) <= 40 else f"{text[:12]}…"


def charts(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """One chart a measure, a line a run."""
    made = []
    for key, (title, about, unit) in CURVES.items():
        lines = tuple(
            Line(name, thinned(smooth(run.metrics[key]) if key in NOISY else run.metrics[key]))
            for name, run in zip(names, runs, strict=True)
            if run.metrics.get(key)
        )
        if lines:
            made.append(Chart(title=title, about=about, lines=lines, unit=unit))
    return made


def _last(run: Run) -> tuple[Row] | None:
    return (run.samples[-1],) if run.samples else None


def table(runs: Sequence[Run]) -> Table:
    """Figures, then the settings that differ, a column a run."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in ("", *labels(runs)):
        made.add_column(Text(visible(head)), overflow="fold")
    for name, row in figures(runs).items():
        made.add_row(*map(Text, (name, *row)))
    made.add_section()
    for cells in differing(runs):
        made.add_row(*(Text(visible(cell)) for cell in cells))
    return made


def answer(runs: Sequence[Run], page: Path) -> dict[str, Any]:
    """What `--json` prints: the figures of each run as numbers, the settings that differ, where the page is."""
    return {
        "page": page.as_posix(),
        "runs": [
            {
                "name": run.name,
                "folder": run.folder.as_posix(),
                "plan_hash": run.plan.plan_hash,
                **measured(run),
            }
            for run in runs
        ],
        "settings": {name: values for name, *values in differing(runs)},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the table, write the page and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m runtime.report.compare", allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--out", type=Path, default=FILE, help=f"the page to write (default: {FILE})")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    return ended(
        lambda: _written(options.runs, options.out, options.open, options.json), lambda: options.debug
    )


def _written(folders: Sequence[Path], out: Path, show: bool, as_json: bool = False) -> None:
    if not 2 <= len(folders) <= MOST:
        raise SpecError(
            Problem("", f"2 to {MOST} runs can be compared, got {len(folders)}", "name other runs")
        )
    runs = [gather(folder) for folder in folders]
    atomic.write_text(out, compared(runs))
    if as_json:
        sys.stdout.write(strict_json.canonical(answer(runs, out)))
    else:
        Console(width=columns(sys.stdout) or UNFOLDED).print(table(runs))
        sys.stdout.write(f"\nwrote {paths.display(out)}\n")
    if show:
        webbrowser.open(out.resolve().as_uri())


if __name__ == "__main__":
    sys.exit(main())
