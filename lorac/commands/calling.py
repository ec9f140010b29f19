"""What the commands share: how one is made, its common options, how it finds a run, how it plans a spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from lorac.terminal import telling, uncollected

if TYPE_CHECKING:
    from lorac.install import Installed

GENERATED = Path("generated")
OUTPUT = Path("output")
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
    """The folder of a run that is named by it, or by its name in output/."""
    return what if what.is_dir() else OUTPUT / what


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

    click.echo("\n".join(map(installed_text, done)), err=err)
    for warning in (text for one in done for text in one.warnings):
        click.echo(f"warning: {warning}", err=True)
