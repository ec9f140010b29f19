"""`lorac run`, `verify`, `reproduce`, `chat`, `install`: carry a plan out, check and use what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lorac.commands.calling import (
    A_PATH,
    CARD,
    GENERATED,
    command,
    debugging,
    planned,
    run_folder,
    tell_installed,
)
from lorac.terminal import say


@command(
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
    options += ["--accept-versions"] * accept_versions + ["--debug"] * debugging()
    if card is not None and (what is None or launch.is_plan(what)):
        raise click.UsageError("--card is for a spec; a plan has its card already")
    if what is None:
        plans = [launch.newest(GENERATED)]
        say(f"Running {plans[0]}, the newest plan in {GENERATED}/")
    elif launch.is_plan(what):
        plans = [launch.plan_in(what)]
    else:
        from lorac.render import summary

        written = planned(what, GENERATED, card, unlocked=False)
        say("\n".join(summary(one.plan, one.path) for one in written))
        plans = [one.path for one in written]
    return launch.run(plans, options)


@command(
    "verify",
    click.argument("what", metavar="RUN", type=A_PATH),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {what, wrong, note, hint}."),
)
def verify(what: Path, as_json: bool) -> int:
    """Hash a finished run again, and what it was made of.

    RUN is a run's name in output/, or its folder. Says which file is not what was written.
    """
    from lorac import launch

    options = ["--json"] * as_json + ["--debug"] * debugging()
    return launch.start("runtime.verify", run_folder(what), options)


@command(
    "reproduce",
    click.argument("what", metavar="RUN", type=A_PATH),
    click.option("--output", type=A_PATH, metavar="DIR", help="Where to run again (default: RUN-again)."),
    click.option("--accept-versions", is_flag=True, help="Run with other package versions than planned."),
)
def reproduce(what: Path, output: Path | None, accept_versions: bool) -> int:
    """Carry a finished run's plan out again, and compare every byte.

    RUN is a run's name in output/, or its folder.
    """
    from lorac import launch

    options = [f"--output={output}"] * (output is not None)
    options += ["--accept-versions"] * accept_versions + ["--debug"] * debugging()
    return launch.start("runtime.reproduce", run_folder(what), options)


@command(
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
    options += ["--json"] * as_json + ["--debug"] * debugging()
    return launch.start("runtime.chat", run_folder(what), options)


@command(
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

    tell_installed(installing.install(run_folder(what), webui=webui, comfyui=comfyui, force=force))
