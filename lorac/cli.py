"""The command line. Each command calls what does the work and prints it; nothing heavy is imported for help.

- Results go to stdout, all else to stderr. Every failure ends in `runtime.ending`, usage errors too.
- A command's own imports are inside it: torch comes where a plan is compiled, after the spec has been
  read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import click

from lorac.lora_cli import lora
from lorac.terminal import block, print_json, progress, telling, uncollected, width
from runtime.ending import ended
from runtime.errors import Problem, SpecError

GENERATED = Path("generated")
OUTPUT = Path("output")
A_PATH = click.Path(path_type=Path)

_F = TypeVar("_F", bound=Callable[..., Any])


@attrs.define
class Asked:
    """What holds for every command."""

    debug: bool = False


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
        said = error.format_message().rstrip(".")
        path = error.ctx.command_path if error.ctx else "lorac"
        raise SpecError(Problem("", said[:1].lower() + said[1:], f"{path} --help shows the usage")) from None


def _debug(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.ensure_object(Asked).debug = True


def _command(name: str, *parameters: Callable[[_F], _F]) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of this name with these parameters and `--debug`."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        everywhere = click.option(
            "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks."
        )
        made: Callable[..., Any] = everywhere(function)
        for parameter in reversed(parameters):
            made = parameter(made)
        return cli.command(name)(made)

    return wrap


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="lorac", message="lorac %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, callback=_debug, help="Show tracebacks.")
@click.pass_context
def cli(context: click.Context) -> None:
    """A compiler and runner for LoRA experiments: if the plan says it fits, it fits.

    Write a spec, `lorac plan` it, look at the plan, `lorac run` it.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(lora)

CARD = click.option(
    "--card", metavar="NAME|GiB", help='The card to fit, such as "12GB" (default: what the spec says).'
)


@_command(
    "plan",
    click.argument("spec", type=A_PATH),
    CARD,
    click.option("--unlocked", is_flag=True, help="Plan though the base or the data is not here."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object (a sweep: a list)."),
    click.option("--out", type=A_PATH, default=GENERATED, show_default=True, help="Where the plans go."),
)
def plan_(spec: Path, card: str | None, unlocked: bool, as_json: bool, out: Path) -> None:
    """Compile a spec into a plan.

    Writes OUT/NAME/plan.json and says what was decided, why, and what it will cost. A spec is a Python
    program, and planning runs it: read a stranger's first.
    """
    written = _planned(spec, out, card, unlocked)
    if as_json:
        answers = [one.answer() for one in written]
        print_json(answers if len(answers) > 1 else answers[0])
        return
    from lorac.render import plan_text

    click.echo("\n\n\n".join(plan_text(one.plan, one.path, width(), block()) for one in written))


@_command(
    "run",
    click.argument("what", metavar="[PLAN|SPEC]", type=A_PATH, required=False),
    CARD,
    click.option("--base", type=A_PATH, help="Where the base is, if not where it was planned."),
    click.option("--data", type=A_PATH, help="Where the data is, if not where it was planned."),
    click.option("--output", type=A_PATH, help="Where to write, if not where the plan says."),
    click.option("--log", type=A_PATH, help="Where TensorBoard's files go."),
    click.option("--accept-versions", is_flag=True, help="Run with other package versions than planned."),
)
def run(what: Path | None, card: str | None, accept_versions: bool, **places: Path | None) -> int:
    """Train as planned.

    PLAN is a plan.json or its folder; without it, the newest in generated/ is run. A SPEC is planned
    first. After an interruption the same command goes on.
    """
    from lorac import launch

    options = [f"--{name}={place}" for name, place in places.items() if place is not None]
    options += ["--accept-versions"] * accept_versions + ["--debug"] * _asked().debug
    if card is not None and (what is None or launch.is_plan(what)):
        raise click.UsageError("--card is for a spec; a plan has its card already")
    if what is None:
        plans = [launch.newest(GENERATED)]
        click.echo(f"Running {plans[0]}, the newest plan in {GENERATED}/")
    elif launch.is_plan(what):
        plans = [launch.plan_in(what)]
    else:
        from lorac.render import summary

        written = _planned(what, GENERATED, card, unlocked=False)
        click.echo("\n".join(summary(one.plan, one.path) for one in written))
        plans = [one.path for one in written]
    return launch.run(plans, options)


@_command(
    "chat",
    click.argument("what", metavar="RUN", type=A_PATH),
    click.option("--prompt", "prompts", metavar="TEXT", multiple=True, help="Ask this and end; repeatable."),
    click.option("--system", metavar="TEXT", help="The system message, if not the plan's."),
    click.option("--max-tokens", type=int, help="An answer's tokens at most, if not the plan's."),
    click.option("--temperature", type=float, help="0 takes the likeliest token, more draws more freely."),
    click.option("--seed", type=int, help="Seed of the first answer, if not the plan's."),
    click.option("--base", type=A_PATH, help="Where the base is, if not where it was planned."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {prompt, base, adapted}."),
)
def chat(what: Path, prompts: tuple[str, ...], as_json: bool, **settings: Any) -> int:
    """Ask a language model with a run's LoRA and without, side by side.

    RUN is a run's name in output/, or its folder. Each line is asked alone; an empty one, "exit" or Ctrl-D
    ends it.
    """
    from lorac import launch

    given = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    options = [f"--{name}={value}" for name, value in given.items()]
    options += [f"--prompt={prompt}" for prompt in prompts]
    options += ["--json"] * as_json + ["--debug"] * _asked().debug
    return launch.chat(_run_folder(what), options)


@_command(
    "install",
    click.argument("what", metavar="NAME|RUN_FOLDER", type=A_PATH),
    click.option("--webui", type=A_PATH, metavar="DIR", help="Stable Diffusion WebUI's own folder."),
    click.option("--comfyui", type=A_PATH, metavar="DIR", help="ComfyUI's own folder."),
    click.option("--force", is_flag=True, help="Replace other files of the same names."),
)
def install(what: Path, webui: Path | None, comfyui: Path | None, force: bool) -> None:
    """Put a finished LoRA where a program looks for it.

    NAME is a run's in output/. Says what was copied and how to call it.
    """
    from lorac import install as installing
    from lorac.render import installed_text

    done = installing.install(_run_folder(what), webui=webui, comfyui=comfyui, force=force)
    click.echo("\n".join(map(installed_text, done)))
    for warning in (text for one in done for text in one.warnings):
        click.echo(f"warning: {warning}", err=True)


@_command(
    "fit",
    click.argument("spec", type=A_PATH),
    click.option("--cards", metavar="A,B,…", required=True, help='Cards to compare: "8GB,12GB,rtx4090".'),
    click.option("--unlocked", is_flag=True, help="Plan though the base or the data is not here."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list."),
)
def fit_(spec: Path, cards: str, unlocked: bool, as_json: bool) -> None:
    """Compare cards: the best plan of a spec for each.

    Writes nothing. A card where nothing fits says by how much, and what would help.
    """
    from lorac.load import load

    loaded = load(spec)
    names = [name.strip() for name in cards.split(",") if name.strip()]
    with uncollected(), telling() as tell:
        from lorac.fit import fit
        from lorac.render import fit_text

        rows = fit(loaded, names, Path.cwd(), unlocked=unlocked, tell=tell)
    if as_json:
        print_json([attrs.asdict(row) for row in rows])
        return
    click.echo(fit_text(rows, width()))


@_command(
    "explain",
    click.argument("what", metavar="PLAN", type=A_PATH),
    click.option("--svg", type=A_PATH, metavar="FILE", help="Draw one step's memory over time there."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)
def explain_(what: Path, svg: Path | None, as_json: bool) -> None:
    """Show where a plan's memory goes, and what each change would buy.

    PLAN is a plan.json or its folder; neither base nor data is needed.
    """
    from lorac.launch import plan_in
    from runtime import plan

    of = plan.read(plan_in(what))
    from lorac.places import cache_folder
    from lorac.render import explain_text

    with uncollected(), telling() as tell:
        from lorac.explain import draw, explain

        found = explain(of, cache_folder(), tell)
        if svg is not None:
            draw(of, cache_folder(), svg)
    if as_json:
        print_json(attrs.asdict(found))
        return
    click.echo(explain_text(found, width(), block()))
    if svg is not None:
        click.echo(f"\nwrote {svg}")


@_command(
    "calibrate",
    click.option(
        "--threads", type=click.IntRange(1), help="How many the CPU computes with (default: one a core)."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list."),
)
def calibrate_(threads: int | None, as_json: bool) -> None:
    """Measure this machine, so that plans for it say how long they take.

    Times operators on the CPU, and on the GPU where there is one, for some 30 seconds each; best when nothing else
    runs. Plans for this CPU, or for the card "auto", use the figures from then on.
    """
    import os

    import torch

    from lorac.calibrate import calibrate, keep, show

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = []
    with progress() as tell:
        for device in devices:
            own = calibrate(device, threads or os.cpu_count() or 1, partial(tell, device))
            found.append((own, keep(own)))
    if as_json:
        print_json([{"path": str(path), **attrs.asdict(own)} for own, path in found])
        return
    click.echo("\n\n".join(show(own, path, width()) for own, path in found))


@_command("diff", click.argument("before", type=A_PATH), click.argument("after", type=A_PATH))
def diff(before: Path, after: Path) -> None:
    """Show what differs between two plans.

    What decides the trained bytes comes first.
    """
    from lorac.diff import differences
    from lorac.launch import plan_in
    from lorac.render import changes_text
    from runtime import plan

    left, right = (plan.read(plan_in(path)) for path in (before, after))
    click.echo(changes_text(differences(left, right), width()))


@_command(
    "spec",
    click.argument("part", required=False),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list."),
)
def spec_(part: str | None, as_json: bool) -> None:
    """Print every field of a spec, its range and default.

    With PART, such as "train", only that part's.
    """
    from lorac.reference import reference
    from lorac.render import reference_text

    rows = [row for row in reference() if part is None or row.field.startswith(f"{part}.")]
    if not rows:
        parts = dict.fromkeys(row.field.rpartition(".")[0] for row in reference() if "." in row.field)
        raise click.UsageError(f"no part {part!r}: there are {', '.join(parts)}")
    if as_json:
        print_json([attrs.asdict(row) for row in rows])
        return
    click.echo(reference_text(rows, width()))


def _run_folder(what: Path) -> Path:
    """The folder of a run that is named by it, or by its name in output/."""
    return what if what.is_dir() else OUTPUT / what


@_command(
    "import",
    click.argument("file", type=A_PATH),
    click.option("--out", type=A_PATH, help="The spec to write (default: specs/NAME.py)."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)
def import_(file: Path, out: Path | None, as_json: bool) -> None:
    """Turn another trainer's config, or a finished LoRA, into a spec.

    FILE is recognised by its contents: kohya's TOML, the kohya_ss GUI's JSON, ai-toolkit's, LLaMA-Factory's or
    axolotl's YAML, OneTrainer's or SimpleTuner's JSON, or a LoRA's .safetensors. Says what became of each key.
    """
    from lorac.importers import show
    from lorac.importers.importing import import_file

    imported = import_file(file, out)
    if as_json:
        print_json(show.answer(imported))
        return
    click.echo(show.text(imported, width()))


def _planned(spec: Path, out: Path, card: str | None, unlocked: bool) -> list[Any]:
    """The spec is read before torch is imported: a mistake in it is told at once."""
    from lorac.load import load

    loaded = load(spec)
    if sys.stderr.isatty():
        click.echo(f"planning {spec} …", err=True)
    with uncollected():
        from lorac.generate import generate

        return generate(loaded, out, card=card, unlocked=unlocked)


def _asked() -> Asked:
    return click.get_current_context().ensure_object(Asked)
