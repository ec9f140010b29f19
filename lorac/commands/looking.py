"""`lorac report`, `watch`, `compare`: look at runs in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from lorac.commands.calling import A_PATH, command, debugging, run_folder
from lorac.terminal import uncollected

OPEN = click.option("--open", "show", is_flag=True, help="Show it in the browser.")


@command(
    "report",
    click.argument("what", metavar="RUN", type=A_PATH),
    click.option("--timeline", is_flag=True, help="Draw one step's memory over time, too: traces the step."),
    OPEN,
)
def report(what: Path, timeline: bool, show: bool) -> int:
    """Write a run's page: curves, samples, data, decisions, how to use the file.

    RUN is a run's name in output/, or its folder; it may be going on. The page is one file, report.html in the run's
    folder, that needs no network.
    """
    from lorac import launch

    folder = run_folder(what)
    if timeline:
        _draw_timeline(folder)
    options = ["--open"] * show + ["--debug"] * debugging()
    return launch.start("runtime.report", folder, options)


def _draw_timeline(folder: Path) -> None:
    """The picture that the page shows where it finds it."""
    from runtime import plan

    of = plan.read(folder / "plan.json")
    from lorac.places import cache_folder

    with uncollected():
        from lorac.explain import draw

        draw(of, cache_folder(), folder / "memory.svg")


@command(
    "watch",
    click.argument("what", metavar="RUN", type=A_PATH),
    click.option("--port", type=click.IntRange(0, 65535), help="On 127.0.0.1 (default: 7861; 0: any)."),
    OPEN,
)
def watch(what: Path, port: int | None, show: bool) -> int:
    """Follow a run in the browser while it trains.

    RUN is a run's name in output/, or its folder. Serves on the loopback address only; stopping it never touches the
    run.
    """
    from lorac import launch

    options = [f"--port={port}"] * (port is not None) + ["--open"] * show + ["--debug"] * debugging()
    return launch.start("runtime.report.watch", run_folder(what), options)


@command(
    "compare",
    click.argument("runs", metavar="RUN RUN…", type=A_PATH, nargs=-1, required=True),
    click.option("--out", type=A_PATH, help="The page to write (default: compare.html)."),
    OPEN,
)
def compare(runs: tuple[Path, ...], out: Path | None, show: bool) -> int:
    """Put runs side by side on one page: what differs, figures, curves, last samples."""
    from lorac import launch

    first, *rest = (run_folder(run) for run in runs)
    options = [*map(str, rest), *[f"--out={out}"] * (out is not None)]
    options += ["--open"] * show + ["--debug"] * debugging()
    return launch.start("runtime.report.compare", first, options)
