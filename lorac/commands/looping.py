"""`lorac sweep`, `loop`: several runs, one after another."""

from __future__ import annotations

from pathlib import Path

import click

from lorac.commands.calling import A_PATH, CARD, GENERATED, JSON, OUTPUT, command
from lorac.terminal import print_json, uncollected, width


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
    CARD,
    JSON,
)
def sweep_(spec: Path, asked: tuple[str, ...], card: str | None, as_json: bool) -> None:
    """Run a spec with several values of a field, one after another.

    Each combination of values is planned and run; a spec of several experiments runs them all. Prints a table, and
    writes it with a contact sheet to output/SPEC-sweep/. A run that is done is not run again: after a stop the same
    command goes on.
    """
    from lorac.changes import parse, variants
    from lorac.load import load

    found = variants(load(spec), [parse(words) for words in asked])
    with uncollected():
        from lorac import figures
        from lorac.generate import generate
        from lorac.sweep import Job, sweep

        plans = generate([one.loaded for one in found], GENERATED, card=card)
    jobs = [Job(written, one.settings) for written, one in zip(plans, found, strict=True)]
    rows = sweep(jobs, OUTPUT / f"{spec.stem}-sweep")
    if as_json:
        print_json(figures.answer(rows))
        return
    click.echo(figures.text(rows, width()))
    click.echo(f"\nwrote {OUTPUT / f'{spec.stem}-sweep'}/")
