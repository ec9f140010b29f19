"""`lorac lora …`: look at LoRA files, convert them, add them up, cut them down, take them out of models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lorac.commands.calling import A_PATH, DEBUG
from lorac.terminal import print_json, progress, say, width
from runtime.errors import Problem, SpecError

if TYPE_CHECKING:
    import torch

    from runtime.lora_files.merge import Weighted
    from runtime.lora_files.rebuilt import Tell

HIGHEST = 1024
"""The highest rank that a spec may ask for, too."""
DTYPE_CHOICE = click.Choice(["fp32", "bf16", "fp16"])
FORCE = click.option("--force", is_flag=True, help="Replace OUT though it was made of something else.")
DROP = click.option("--drop-unknown", is_flag=True, help="Leave out keys that are no LoRA's.")

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group(invoke_without_command=True)
@click.pass_context
def lora(context: click.Context) -> None:
    """Inspect, convert, merge, resize and extract LoRA files.

    Of any trainer: in kohya's names (WebUI, ComfyUI), diffusers' or PEFT's.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _command(name: str, *parameters: Callable[[_F], _F]) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of the group, with `--debug` as everywhere; what it does runs without gradients."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> None:
            import torch

            with torch.inference_mode():
                function(*arguments, **options)

        made: Callable[..., Any] = DEBUG(run)
        for parameter in reversed(parameters):
            made = parameter(made)
        return lora.command(name)(made)

    return wrap


@_command(
    "inspect",
    click.argument("source", metavar="FILE|FOLDER", type=A_PATH),
    click.option("--modules", "each", is_flag=True, help="List every module, the strongest first."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything."),
)
def inspect_(source: Path, each: bool, as_json: bool) -> None:
    """Show what a LoRA file is, how strong, and what is wrong with it.

    Naming style, family, ranks, alphas, norms of the change, metadata, the hashes that WebUI and Civitai show, and
    what programs would drop or scale wrongly.
    """
    import attrs

    from lorac.lora_text import beside_text, inspected_text, modules_text
    from runtime.lora_files.adapter import read
    from runtime.lora_files.inspection import inspected

    adapter = read(source)
    with _telling("inspect") as tell:
        found = inspected(adapter, tell)
    if as_json:
        print_json(attrs.asdict(found))
        return
    say("\n\n".join([inspected_text(found, width()), *beside_text(source, adapter.path)]))
    if each:
        say("\n" + modules_text(found))


@_command(
    "convert",
    click.argument("source", metavar="FILE|FOLDER", type=A_PATH),
    click.argument("out", type=A_PATH),
    click.option(
        "--to", type=click.Choice(["kohya", "diffusers", "peft"]), required=True, help="Whose names."
    ),
    DROP,
    FORCE,
)
def convert_(source: Path, out: Path, to: Any, drop_unknown: bool, force: bool) -> None:
    """Write a LoRA in kohya's, diffusers' or PEFT's names.

    No number is changed: converted back, every tensor is the same bit for bit. PEFT's style is a folder, with one
    below for each component.
    """
    from runtime.lora_files.adapter import read
    from runtime.lora_files.convert import converted
    from runtime.lora_files.save import Mark, check_name, claim, save
    from runtime.lora_files.usable import usable

    check_name(out, to)
    adapter = usable(read(source), "converted", drop_unknown=drop_unknown)
    mark = Mark("converted", (adapter.sha256,))
    claim(out, mark, force)
    result, notes = converted(adapter, to)
    _wrote(save(result, out, mark), f"{len(result.updates)} modules, {adapter.style} -> {to}", notes)


@_command(
    "merge",
    click.argument("adapters", metavar="FILE[:WEIGHT]…", nargs=-1, required=True),
    click.argument("out", type=A_PATH),
    click.option("--base", type=A_PATH, help="Merge into this base: one file, or a folder."),
    click.option(
        "--rank", type=click.IntRange(1, HIGHEST), help="Of the sum (default: the ranks' sum, exactly)."
    ),
    click.option("--dtype", type=DTYPE_CHOICE, help="Of the LoRA (default: the widest of the inputs')."),
    DROP,
    FORCE,
)
def merge_(
    adapters: tuple[str, ...],
    out: Path,
    base: Path | None,
    rank: int | None,
    dtype: str | None,
    drop_unknown: bool,
    force: bool,
) -> None:
    """Add LoRAs up to one, or into a base.

    WEIGHT is 1 where none is given: `lorac lora merge a.safetensors:0.8 b.safetensors:0.5 sum.safetensors`. With
    --base the result is a whole model in the base's layout and dtype, each weight added to in float32.
    """
    if base is not None and (rank is not None or dtype is not None):
        raise click.UsageError("--rank and --dtype are for a LoRA; a merged base keeps its own dtype")
    if base is None and len(adapters) < 2:
        raise click.UsageError("give two LoRAs or more, or a --base to merge into")
    if base is not None:
        _merge_into(adapters, base, out, drop_unknown, force)
        return
    from lorac.lora_text import kept_text
    from runtime.lora_files.merge import merged
    from runtime.lora_files.save import Mark, check_name, claim, save

    weighted = [_weighted(text, drop_unknown, into_base=False) for text in adapters]
    check_name(out, weighted[0].adapter.style)
    mark = Mark("merged", _sources(weighted))
    claim(out, mark, force)
    with _telling("merge") as tell:
        result, kept, off = merged(weighted, rank, _dtype(dtype), tell)
    ranks = sorted({update.rank for update in result.updates.values()})
    said = f"{len(weighted)} LoRAs in {len(result.updates)} modules, rank {_span(ranks)}"
    _wrote(save(result, out, mark), said, [*kept_text(kept), _rounded(off)])


@_command(
    "resize",
    click.argument("source", metavar="FILE|FOLDER", type=A_PATH),
    click.argument("out", type=A_PATH),
    click.option("--rank", type=click.IntRange(1, HIGHEST), help="The new rank at most."),
    click.option(
        "--energy",
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the squared norm kept in each module.",
    ),
    click.option("--dtype", type=DTYPE_CHOICE, help="Of the file (default: its own)."),
    DROP,
    FORCE,
)
def resize_(
    source: Path,
    out: Path,
    rank: int | None,
    energy: float | None,
    dtype: str | None,
    drop_unknown: bool,
    force: bool,
) -> None:
    """Lower a LoRA's rank.

    By singular values: what is kept is the best there is at that rank. Says how much of the change is kept.
    """
    if (rank is None) == (energy is None):
        raise click.UsageError("give --rank or --energy")
    from lorac.lora_text import kept_text
    from runtime.lora_files.adapter import read
    from runtime.lora_files.resize import resized
    from runtime.lora_files.save import Mark, check_name, claim, save
    from runtime.lora_files.usable import finite, usable

    adapter = finite(usable(read(source), "resized", drop_unknown=drop_unknown))
    check_name(out, adapter.style)
    mark = Mark("resized", (adapter.sha256,))
    claim(out, mark, force)
    with _telling("resize") as tell:
        result, kept, off = resized(adapter, rank, energy, _dtype(dtype), tell)
    before, after = (sorted({update.rank for update in one.updates.values()}) for one in (adapter, result))
    said = f"{len(result.updates)} modules, rank {_span(before)} -> {_span(after)}"
    _wrote(save(result, out, mark), said, [*kept_text(kept), _rounded(off)])


@_command(
    "extract",
    click.argument("base", type=A_PATH),
    click.argument("tuned", type=A_PATH),
    click.argument("out", type=A_PATH),
    click.option("--rank", type=click.IntRange(1, HIGHEST), required=True, help="Of the LoRA."),
    click.option("--dtype", type=DTYPE_CHOICE, default="fp16", show_default=True, help="Of the LoRA."),
    FORCE,
)
def extract_(base: Path, tuned: Path, out: Path, rank: int, dtype: str, force: bool) -> None:
    """Make a LoRA of the difference between two full models.

    BASE and TUNED are files or folders of one family. The LoRA has kohya's names, alpha = rank, and says how much of
    the difference it keeps.
    """
    from lorac.lora_text import extracted_text
    from runtime.lora_files.bases import opened
    from runtime.lora_files.extract import extracted
    from runtime.lora_files.save import Mark, check_name, claim, save
    from runtime.safeio.digest import sha256_file

    check_name(out, "kohya")
    with opened(base, sha256_file) as ours, opened(tuned, sha256_file) as theirs:
        digests = tuple(model.found.base.digest for model in (ours, theirs) if model.found is not None)
        mark = Mark("extracted", digests)
        claim(out, mark, force)
        wanted = _dtype(dtype)
        assert wanted is not None
        with _telling("extract") as tell:
            found = extracted(ours, theirs, rank, wanted, tell)
    files = save(found.adapter, out, mark)
    ranks = sorted({update.rank for update in found.adapter.updates.values()})
    said = f"{len(found.adapter.updates)} modules, rank {_span(ranks)}, {found.unchanged} the same in both"
    _wrote(files, said, extracted_text(found))


def _merge_into(adapters: Sequence[str], base: Path, out: Path, drop_unknown: bool, force: bool) -> None:
    from runtime.lora_files.bake import bake
    from runtime.lora_files.bases import opened
    from runtime.lora_files.save import Mark, check_name, claim
    from runtime.safeio.digest import sha256_file

    weighted = [_weighted(text, drop_unknown, into_base=True) for text in adapters]
    if base.is_dir():
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise SpecError(
                Problem(out.as_posix(), "is there already", "give another place, or remove it first")
            )
    else:
        check_name(out, "single file")
    with opened(base, sha256_file) as model, _telling("merge") as tell:
        into = (model.found.base.digest,) if model.found is not None else ()
        mark = Mark("merged", (*_sources(weighted), *into))
        if base.is_file():
            claim(out, mark, force)
        done = bake(weighted, model, out, mark, tell)
    left = [f"left out {name}: it holds the base's old weights" for name in done.left_out]
    _wrote([out], f"{done.changed} weights of the base changed", left)


def _weighted(text: str, drop_unknown: bool, into_base: bool) -> Weighted:
    """`FILE:0.8` read, and looked at for what is to be done with it."""
    from runtime.lora_files.adapter import read
    from runtime.lora_files.merge import Weighted
    from runtime.lora_files.usable import ADDITIVE, LORA, finite, usable

    path, weight = Path(text), 1.0
    before, _, last = text.rpartition(":")
    if before and not path.exists():
        try:
            path, weight = Path(before), float(last)
        except ValueError:
            raise click.UsageError(f"the weight of {before} must be a number, got {last!r}") from None
        if not abs(weight) < float("inf"):
            raise click.UsageError(f"the weight of {before} must be finite, got {last}")
    methods = ADDITIVE if into_base else LORA
    doing = "merged into a base" if into_base else "merged into one"
    return Weighted(finite(usable(read(path), doing, methods, drop_unknown)), weight)


def _sources(weighted: Sequence[Weighted]) -> tuple[str, ...]:
    return tuple(f"{one.adapter.sha256}:{one.weight:g}" for one in weighted)


def _dtype(name: str | None) -> torch.dtype | None:
    from runtime.dtypes import DTYPES

    return DTYPES[name] if name else None


def _rounded(off: float) -> str:
    return f"rounding to the file's dtype moves it by {off:.1e} of its norm"


def _span(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _wrote(files: Sequence[Path], said: str, notes: Sequence[str]) -> None:
    from runtime.errors import visible

    say(visible(said))
    for note in notes:
        say(visible(note))
    for file in files:
        say(visible(f"wrote {file.as_posix()}"))


@contextmanager
def _telling(job: str) -> Iterator[Tell]:
    """A bar on a terminal, silent elsewhere."""
    with progress() as tell:
        yield functools.partial(tell, job)
