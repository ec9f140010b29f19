"""`python -m runtime.chat RUN`: what a language model answers without a run's adapter and with it.

Each prompt is asked alone, so that the two answers differ by the adapter only. Works without lorac.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.console import Console
from rich.text import Text

from runtime import plan, preflight
from runtime.ending import INTERRUPTED, ended
from runtime.errors import InputError, MachineError, PlanError, Problem, SpecError, visible
from runtime.families import family
from runtime.preflight import Where
from runtime.safeio import paths, strict_json

if TYPE_CHECKING:
    from runtime.adapters.whole import Whole
    from runtime.families.protocol import Modules
    from runtime.offload import Stream

RUN_AGAIN = "run the plan again: it makes what is missing"
SIDES = {"base": 0.0, "LoRA": 1.0}
"""What each answer is called on the screen, and the adapter's weight that it is given at."""
FIELDS = {"base": "base", "LoRA": "adapted"}
"""What each is called in JSON, as in a run's samples/."""


@attrs.frozen(kw_only=True)
class Pair:
    """A base and its adapter, ready to answer."""

    of: plan.Plan
    modules: Modules
    tokenizer: Any
    stream: Stream | None
    whole: tuple[Whole, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, answer, and turn every end into its exit code (see `runtime.errors`)."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # bytes and characters that are none
    options = parser().parse_args(arguments)
    return ended(lambda: _quietly(lambda: carry_out(options)), lambda: options.debug)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m runtime.chat",
        description="Ask a language model with a run's adapter and without.",
        allow_abbrev=False,
    )
    made.add_argument("run", type=Path, help="the run's folder")
    made.add_argument("--prompt", action="append", default=[], help="ask this and end; may be given again")
    made.add_argument("--system", help="the system message, if not the plan's")
    made.add_argument("--max-tokens", type=int, help="an answer's tokens at most, if not the plan's")
    made.add_argument("--temperature", type=float, help="0 takes the likeliest token, more draws more freely")
    made.add_argument("--seed", type=int, help="seed of the first answer, if not the plan's")
    made.add_argument("--base", type=Path, help="where the base is, if not where it was planned")
    made.add_argument("--json", action="store_true", help="print a JSON list of {prompt, base, adapted}")
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    return made


def carry_out(options: argparse.Namespace) -> None:
    """Load the pair and answer what is asked. Raises LoracError."""
    of = read(options.run)
    wanted = asked(of, options)
    base = options.base or Path(of.outputs.places.base)
    with telling(f"Loading {of.outputs.base_name} and {of.outputs.name}"):
        problems = preflight.base_problems(of.program.base, base, {})
        if problems:
            raise PlanError(problems)
        pair = load(of, options.run, base)
    if options.json:
        found = [
            {"prompt": p, **{FIELDS[side]: text for side, text in answered(pair, wanted, p, place)}}
            for place, p in enumerate(wanted.prompts)
        ]
        sys.stdout.write(strict_json.canonical(found))
        return
    is_typed = sys.stdin.isatty() and not wanted.prompts
    if is_typed:
        show(f"{of.outputs.name} on {of.outputs.base_name}: each line is asked alone, an empty one ends")
    for place, prompt in enumerate(wanted.prompts or typed()):
        if not is_typed:
            show(visible(f"> {prompt}"))
        for side, text in answered(pair, wanted, prompt, place):
            show(laid(side, text, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
        show("")


# ------------------------------------------------------------------------------------------------ what is asked


def read(folder: Path) -> plan.Plan:
    """The plan of a run of a language model. Raises InputError, PlanError, and SpecError for a run of pictures."""
    where = paths.display(folder)
    if not (folder / "plan.json").is_file():
        hint = "give a run's name in output/, or its folder"
        raise InputError(Problem(where, "there is no run here", hint))
    of = plan.read(folder / "plan.json")
    if not isinstance(of.outputs.samples, plan.Answers):
        hint = f"prompt it in the WebUI: lorac install {where} --webui DIR"
        raise SpecError(Problem(where, "is a LoRA for pictures, which answers nothing", hint))
    return of


def asked(of: plan.Plan, options: argparse.Namespace) -> plan.Answers:
    """The plan's own way to ask, with what the options change. Raises SpecError with all that is wrong in them."""
    given = {
        name: value
        for name in ("system", "max_tokens", "temperature", "seed")
        if (value := getattr(options, name)) is not None
    }
    prompts = tuple(_text(prompt) for prompt in options.prompt)
    assert isinstance(of.outputs.samples, plan.Answers)
    wanted = attrs.evolve(of.outputs.samples, prompts=prompts, **given)
    wrong = {
        "--prompt": ("must not be empty", not all(prompt.strip() for prompt in prompts)),
        "--json": ("is for what --prompt asks", options.json and not prompts),
        "--max-tokens": (f"must be at least 1, got {wanted.max_tokens}", wanted.max_tokens < 1),
        "--temperature": (
            f"must be 0 or more and finite, got {wanted.temperature}",
            not (math.isfinite(wanted.temperature) and wanted.temperature >= 0),
        ),
        "--seed": (f"must be between 0 and 2**63 - 1, got {wanted.seed}", not 0 <= wanted.seed < 2**63),
        "--system": (
            "is for a base with a chat template, and this one has none",
            bool(options.system) and not _template(of),
        ),
    }
    problems = [Problem(option, what) for option, (what, is_wrong) in wrong.items() if is_wrong]
    if problems:
        raise SpecError(problems)
    return attrs.evolve(wanted, system=_text(wanted.system))


def _text(argument: str) -> str:
    """An argument whose bytes were no UTF-8 has surrogates, which no tokenizer takes."""
    return argument.encode(errors="surrogateescape").decode(errors="replace")


def typed() -> Iterator[str]:
    """Lines of standard input until it ends, or one is empty or "exit"."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  (input() edits lines with it)
    while True:
        try:
            line = input("> " if is_terminal else "").strip()
        except EOFError:
            if is_terminal:
                show("")
            return
        if line in ("", "exit"):
            return
        yield line


# ------------------------------------------------------------------------------------------------- the two sides


def load(of: plan.Plan, folder: Path, base: Path) -> Pair:
    """The base with the run's adapter on it, as its file holds it. Raises LoracError."""
    file = adapter_file(folder, of)
    import torch
    import transformers

    from runtime import run, step
    from runtime.adapters import method, whole

    transformers.logging.set_verbosity_error()
    program = attrs.evolve(
        of.program,
        compute=computed(of.program.compute, torch.cuda.is_available()),
        adapter=method(of.program.adapter.method).in_peft(of.program.adapter),
    )
    if program.compute.device == "cpu":
        torch.set_num_threads(program.compute.threads)
    architecture, device = family(program.base.family), torch.device(program.compute.device)
    where = Where(base=base, data=Path(), output=folder, log=folder, cache=folder)
    with roomy():
        modules, tokenizers = run.load(architecture, program, where, device)
        step.attach(modules, program)
        wholes = whole.put_on(modules, program.adapter)
        fill(modules, program, file)
        stream = step.lay(architecture, modules, program.compute, device)
    for module in modules.values():
        module.eval()
    return Pair(
        of=attrs.evolve(of, program=program),
        modules=modules,
        tokenizer=tokenizers[architecture.BACKBONE],
        stream=stream,
        whole=tuple(wholes.values()),
    )


def computed(compute: plan.Compute, has_cuda: bool) -> plan.Compute:
    """How answers are computed: as planned, without what only training needs; by the CPU where there is no card.

    It is one process: blocks that were split among several come to its card one after the other.
    """
    split = compute.sharded
    compute = attrs.evolve(compute, checkpointed=(), attention_chunks=1, sharded=())
    if compute.device == "cpu":
        return compute
    if has_cuda:
        return attrs.evolve(compute, offloaded=(*compute.offloaded, *split))
    return attrs.evolve(compute, device="cpu", threads=os.cpu_count() or 1, offloaded=())


def adapter_file(folder: Path, of: plan.Plan) -> Path:
    """The finished adapter's file. Raises InputError, naming every file that is not as the manifest says."""
    from runtime.export import manifest, peft, write
    from runtime.safeio import digest

    if write.finished(folder, of):
        return folder / peft.FILE
    receipt = folder / f"{of.outputs.name}{manifest.SUFFIX}"
    if not receipt.is_file():
        hint = f"finish it: lorac run {paths.display(folder)}"
        raise InputError(Problem(paths.display(folder), "holds no finished LoRA", hint))
    found = manifest.read(receipt)
    if found.plan_hash != of.plan_hash:
        raise InputError(Problem(paths.display(receipt), "is of another plan than plan.json", RUN_AGAIN))
    problems = []
    for file in found.files:
        path = folder / file.name
        if not path.is_file():
            problems.append(Problem(paths.display(path), "is missing", RUN_AGAIN))
        elif digest.sha256_file(path) != file.sha256:
            problems.append(Problem(paths.display(path), "changed since it was made", RUN_AGAIN))
    raise InputError(problems)


def fill(modules: Modules, program: plan.Program, file: Path) -> None:
    """Give the adapter the values in PEFT's file. Raises InputError unless every tensor has its place."""
    import torch

    from runtime.adapters import adapted, method, whole
    from runtime.export.peft import PREFIX
    from runtime.safeio.weights import open_weights

    names = method(program.adapter.method).PEFT
    places = {
        f"{PREFIX}{path}.{names[part]}": parameter
        for component in program.adapter.targets
        for path, layer in adapted.layers(modules[component]).items()
        for part, parameter in layer.parts.items()
    }
    for name, parameter in whole.parameters(modules, program.adapter):
        places[f"{PREFIX}{name.partition('.')[2]}"] = parameter
    with open_weights(file) as weights, torch.no_grad():
        shapes = {name: info.shape for name, info in weights.items()}
        if shapes != {name: tuple(place.shape) for name, place in places.items()}:
            what = "its tensors are not those of the plan's adapter"
            raise InputError(Problem(paths.display(file), what, "plan and run again with this version"))
        for name, place in places.items():
            place.copy_(weights.load(name))


def answered(pair: Pair, wanted: plan.Answers, prompt: str, place: int) -> Iterator[tuple[str, str]]:
    """What each side answers, both drawn with the same seed: ("base", text), ("LoRA", text).

    Raises SpecError for messages that the base's template refuses.
    """
    from jinja2.exceptions import TemplateError

    from runtime.answers import generated, question
    from runtime.step import weigh

    program = pair.of.program
    model = pair.modules[family(program.base.family).BACKBONE]
    messages = question(wanted.system, prompt)
    for side, weight in SIDES.items():
        weigh(pair.modules, program.adapter, pair.whole, weight)
        try:
            with telling(side), roomy():
                text = generated(
                    model,
                    pair.tokenizer,
                    messages,
                    _template(pair.of),
                    wanted.max_tokens,
                    wanted.temperature,
                    wanted.seed + place,
                )
        except TemplateError as error:
            what = f"the base's chat template refuses these messages: {error}"
            raise SpecError(Problem("", what, "ask without --system")) from None
        finally:
            if pair.stream is not None:
                pair.stream.rest()
        yield side, text


def _template(of: plan.Plan) -> str:
    data = of.program.data
    assert isinstance(data, plan.Texts)
    return data.template


@contextmanager
def roomy() -> Iterator[None]:
    """A card that is full is the machine's failure, not ours."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        hint = "close what else uses the card, or ask for less: --max-tokens"
        raise MachineError(Problem("memory", "the card's memory is full", hint)) from error


# ------------------------------------------------------------------------------------------------------ the screen


def laid(side: str, text: str, width: int | None) -> str:
    """An answer behind its side's name, later lines below its first; wrapped to `width` columns, or not (None).

    What a model says may hold control characters, which a terminal would obey: they are escaped.
    """
    name = f"{side}: "
    lines = [visible(line) for line in text.expandtabs(4).splitlines()] or [""]
    if width is not None:
        room = max(20, width - len(name))
        lines = [part for line in lines for part in textwrap.wrap(line, room) or [""]]
    return name + f"\n{' ' * len(name)}".join(lines)


def show(text: str) -> None:
    """A line for the user."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def telling(what: str) -> AbstractContextManager[Any]:
    """One line on a terminal that says what is being done now, gone at the end; silent elsewhere."""
    # Bound to stderr as it is now: transformers' GGUF reader is made silent by another stderr for a while.
    return Console(file=sys.stderr).status(Text(visible(f"{what} …")))


def _quietly(work: Callable[[], None]) -> int:
    """Ctrl-C is how a chat may end: no words about it."""
    try:
        work()
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            show("")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
