"""`lorac report`, `watch`, `compare`, `eval`: look at runs, in a browser or by figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lorac.commands.calling import A_PATH, JSON, command, debugging, run_folder
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
    JSON,
)
def compare(runs: tuple[Path, ...], out: Path | None, show: bool, as_json: bool) -> int:
    """Put runs side by side: what differs and what came of it.

    Shows a table, and writes a page with curves and last samples beside it.
    """
    from lorac import launch

    first, *rest = (run_folder(run) for run in runs)
    options = [*map(str, rest), *[f"--out={out}"] * (out is not None)]
    options += ["--open"] * show + ["--json"] * as_json + ["--debug"] * debugging()
    return launch.start("runtime.report.compare", first, options)


@command(
    "eval",
    click.argument("what", metavar="RUN", type=A_PATH),
    click.option("--weights", metavar="W,W,…", help="LoRA weights to try (default: 0.6,0.8,1.0)."),
    click.option(
        "--checkpoints", type=click.Choice(["all", "last"]), help="Which of those on disk (default: all)."
    ),
    click.option("--seeds", type=int, metavar="N", help="Pictures of each prompt (default: 2)."),
    click.option(
        "--judge",
        metavar="CLIP",
        help="An open_clip model: a folder, or NAME/WEIGHTS (default: clip/ beside the base).",
    ),
    click.option("--apply", is_flag=True, help="Make the recommended weight the one that the WebUI offers."),
    click.option("--base", type=A_PATH, help="Where the base is, if not where it was planned."),
    click.option("--data", type=A_PATH, help="Where the data is, if not where it was planned."),
    click.option("--json", "as_json", is_flag=True, help="Print what is written to evaluation.json."),
)
def eval_(what: Path, apply: bool, as_json: bool, **settings: Any) -> int:
    """Evaluate a finished run over its checkpoints and LoRA weights.

    RUN is a run's name in output/, or its folder. Measures the held-out loss. Of pictures also how well they
    follow prompt and style, how they differ, whether they copy a training picture; and draws grid.png. Of text
    also perplexity, answers and their repetition. Recommends a weight.
    """
    from lorac import launch

    options = [f"--{name}={value}" for name, value in settings.items() if value is not None]
    options += ["--apply"] * apply + ["--json"] * as_json + ["--debug"] * debugging()
    return launch.start("runtime.evaluation", run_folder(what), options)
