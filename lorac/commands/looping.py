"""`lorac sweep`, `loop`: several runs, one after another or side by side."""

from __future__ import annotations

import math
from pathlib import Path

import click

from lorac.commands.calling import A_PATH, CARD, GENERATED, JSON, OUTPUT, command, tell_installed
from lorac.terminal import print_json, say, uncollected, width

PROGRAMS = ("webui", "comfyui")


@command(
    "sweep",
    click.argument("spec", type=A_PATH),
    click.option(
        "--set",
        "asked",
        metavar="FIELD=A,B,…",
        multiple=True,
        help='Values of a field, such as "train.learning_rate=1e-4,2e-4"; repeatable.',
    ),
    click.option(
        "--on",
        "where",
        type=click.Choice(("ray",)),
        help="Side by side, as tasks of Ray: on this machine, or the cluster that RAY_ADDRESS names.",
    ),
    click.option("--stop-weak", is_flag=True, help="Stop a run that falls behind the best third (ASHA)."),
    CARD,
    JSON,
)
def sweep_(
    spec: Path, asked: tuple[str, ...], where: str | None, stop_weak: bool, card: str | None, as_json: bool
) -> None:
    """Run a spec with several values of a field, one after another, or side by side with --on ray.

    Each combination of values is planned and run; a spec of several experiments runs them all. Prints a table, and
    writes it with a contact sheet to output/SPEC-sweep/. A run that is done is not run again: after a stop the same
    command goes on.
    """
    from lorac.changes import parse, variants
    from lorac.load import load

    found = variants(load(spec), [parse(words) for words in asked])
    with uncollected():
        from lorac import figures, on_ray
        from lorac.generate import generate
        from lorac.sweep import Job, one_after_another, sweep

        if where == "ray":
            on_ray.imported()  # that it is missing is told before anything is planned

        plans = generate([one.loaded for one in found], GENERATED, card=card)
    jobs = [Job(written, one.settings) for written, one in zip(plans, found, strict=True)]
    rows = sweep(
        jobs,
        OUTPUT / f"{spec.stem}-sweep",
        executor=on_ray.on_ray if where == "ray" else one_after_another,
        stops_weak=stop_weak,
        tell=lambda words: say(words, err=True),
    )
    if as_json:
        print_json(figures.answer(rows))
        return
    say(figures.text(rows, width()))
    say(f"\nwrote {OUTPUT / f'{spec.stem}-sweep'}/")


@command(
    "loop",
    click.argument("spec", type=A_PATH),
    click.option(
        "--rounds", type=click.IntRange(1, 64), default=4, show_default=True, help="At most so many."
    ),
    click.option("--budget", type=float, metavar="MINUTES", help="No further round once it would take more."),
    click.option(
        "--install",
        "target",
        type=(click.Choice(PROGRAMS), A_PATH),
        metavar="PROGRAM DIR",
        help="Install the best there at the end: webui DIR, or comfyui DIR.",
    ),
    CARD,
    JSON,
)
def loop_(
    spec: Path,
    rounds: int,
    budget: float | None,
    target: tuple[str, Path] | None,
    card: str | None,
    as_json: bool,
) -> None:
    """Train, look what is wrong, change it, and train again.

    Each round is a spec of its own in generated/NAME-loop/ and a run of its own in output/. It ends when a round brings
    no gain beyond the noise, when nothing is found to change, or at --rounds or --budget. After a stop the same command
    goes on.
    """
    from lorac.load import load, the_only

    first = the_only(load(spec))
    with uncollected():
        from lorac import figures
        from lorac.loop import Limits, Places, loop, text, told

    name = f"{first.experiment.name}-loop"
    places = Places(specs=GENERATED / name, plans=GENERATED, table=OUTPUT / name)
    limits = Limits(rounds=rounds, seconds=math.inf if budget is None else budget * 60)
    made = loop(first, places, limits, card)
    if as_json:
        print_json(told(made))
    else:
        say(text(made, width()))
    winner = figures.best(made.rows)
    if target is not None and winner is not None:
        from lorac.install import install

        program, folder = target
        webui, comfyui = (folder if program == one else None for one in PROGRAMS)
        tell_installed(install(figures.folder(winner.plan), webui=webui, comfyui=comfyui), err=as_json)
