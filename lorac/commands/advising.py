"""`lorac advise`: what to change after a run."""

from __future__ import annotations

from pathlib import Path

import click

from lorac.commands.calling import A_PATH, JSON, command, run_folder
from lorac.terminal import print_json, say, uncollected


@command(
    "advise",
    click.argument("what", metavar="RUN", type=A_PATH),
    click.option("--spec", type=A_PATH, help="The run's spec: show the change as a diff of it."),
    JSON,
)
def advise_(what: Path, spec: Path | None, as_json: bool) -> None:
    """Say what is wrong with a run, and what to change.

    RUN is a run's name in output/, or its folder. Looks for too weak, overfitted and unstable, each by a figure and a
    stated bound; writes RUN/advice.json. Changes nothing.
    """
    from lorac.load import load, of_name

    loaded = load(spec) if spec is not None else []
    with uncollected():
        from lorac.advice.advise import advise, answer, spec_diff, text, write

        folder = run_folder(what)
        advice = advise(folder)
    diff = spec_diff(of_name(loaded, advice.name), advice.moves) if loaded and advice.moves else ""
    write(advice, folder)
    if as_json:
        print_json({**answer(advice), "diff": diff})
        return
    say(text(advice))
    if diff:
        click.echo(f"\n{diff}", nl=False)
