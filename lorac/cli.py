"""The command line. Each command calls what does the work and prints it; nothing heavy is imported for help.

- Results go to stdout, all else to stderr. Every failure ends in `runtime.ending`, usage errors too.
- A command's own imports are inside it: torch comes where a plan is compiled, after the spec has been
  read.
"""

from __future__ import annotations

import difflib
import sys
from typing import NoReturn

import click

from lorac.commands import COMMANDS, find
from lorac.commands.calling import DEBUG, Asked
from runtime.ending import ended
from runtime.errors import Problem, SpecError

ELSEWHERE = {
    "train": "run",
    "caption": "label",
    "generate": "eval",
    **{name: f"lora {name}" for name in ("inspect", "convert", "merge", "resize", "extract")},
}
"""What other trainers call a command, and commands of a group that are asked for without it."""


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console that lacks a character
    asked = Asked()
    sys.exit(ended(lambda: _called(asked), lambda: asked.debug))


def _called(asked: Asked) -> int | None:
    """The command's exit code; what click finds wrong with the call is a SpecError, too."""
    try:
        code: int | None = cli.main(prog_name="lorac", standalone_mode=False, obj=asked)
        return code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.UsageError as error:
        said = " ".join(error.format_message().split()).rstrip(".")
        path = error.ctx.command_path if error.ctx else "lorac"
        raise SpecError(Problem("", said[:1].lower() + said[1:], f"{path} --help shows the usage")) from None


class Commands(click.Group):
    """The commands of the registry, each imported when it is asked for, listed under its heading."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return find(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = {name: name for name in self.list_commands(ctx)} | ELSEWHERE
        near = difflib.get_close_matches(args[0], names, n=1)
        if near and find(args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"no such command '{args[0]}'; did you mean `lorac {names[near[0]]}`?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.list_commands(ctx)))
        for heading, names in COMMANDS.items():
            found = [(name.ljust(widest), find(name)) for name in names]
            with formatter.section(heading):
                formatter.write_dl([(name, one.get_short_help_str(80)) for name, one in found if one])


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="lorac", message="lorac %(version)s")
@DEBUG
@click.pass_context
def cli(context: click.Context) -> None:
    """A compiler and runner for LoRA experiments: if the plan says it fits, it fits.

    Write a spec, `lorac plan` it, look at the plan, `lorac run` it.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
