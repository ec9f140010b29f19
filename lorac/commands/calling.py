"""What the commands share: how one is made, its common options, how it finds a run, how it plans a spec."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from lorac.terminal import say, telling, uncollected
from runtime.errors import InputError, Problem

if TYPE_CHECKING:
    from lorac.install import Installed

GENERATED = Path("generated")
OUTPUT = Path("output")
RUNS_NAMED = 8
"""How many runs are named to whoever asks for one that is not there."""
A_PATH = click.Path(path_type=Path)

_F = TypeVar("_F", bound=Callable[..., Any])


@attrs.define
class Asked:
    """What holds for every command."""

    debug: bool = False


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return click.get_current_context().ensure_object(Asked).debug


def _debug(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.ensure_object(Asked).debug = True


DEBUG = click.option("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks.")
CARD = click.option(
    "--card", metavar="NAME|GiB", help='The card to fit, such as "12GB" (default: what the spec says).'
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def command(name: str, *parameters: Callable[[_F], _F]) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of this name with these parameters and `--debug`."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        made: Callable[..., Any] = DEBUG(function)
        for parameter in reversed(parameters):
            made = parameter(made)
        return click.command(name)(made)

    return wrap


def run_folder(what: Path) -> Path:
    """The folder of a run that is named by it, by a file in it, or by its name in output/. Raises InputError."""
    places = (what, OUTPUT / what, *([what.parent] if what.is_file() else []))
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise InputError(
            Problem(str(what), "there is no such run, neither here nor in output/", _runs(what.name))
        )
    return found


def _runs(wanted: str) -> str:
    """What to name instead of a run that is not there."""
    names = sorted(path.parent.name for path in OUTPUT.glob("*/plan.json"))
    if not names:
        return "give a run's folder, or run one here first: lorac run SPEC"
    near = difflib.get_close_matches(wanted, names, n=1)
    return f"did you mean {near[0]}?" if near else f"output/ has {', '.join(names[:RUNS_NAMED])}"


def planned(spec: Path, out: Path, card: str | None, unlocked: bool) -> list[Any]:
    """Compile a spec and write its plans. It is read before torch is imported: a mistake in it is told at once."""
    from lorac.load import load

    loaded = load(spec)
    with uncollected(), telling() as tell:
        tell(f"planning {spec}")
        from lorac.generate import generate

        return generate(loaded, out, card=card, unlocked=unlocked, tell=tell)


def tell_installed(done: Sequence[Installed], err: bool = False) -> None:
    """Say what was copied where (on stderr with `err`), and on stderr what to know of it."""
    from lorac.render import installed_text

    say("\n".join(map(installed_text, done)), err=err)
    for warning in (text for one in done for text in one.warnings):
        say(f"warning: {warning}", err=True)
