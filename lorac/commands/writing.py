"""`lorac spec`, `import`: the words of a spec, and specs made of other trainers' configs."""

from __future__ import annotations

from pathlib import Path

import attrs
import click

from lorac.commands.calling import A_PATH, command
from lorac.terminal import print_json, say, width


@command(
    "spec",
    click.argument("part", metavar="[PART|FIELD]", required=False),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list."),
)
def spec_(part: str | None, as_json: bool) -> None:
    """Print every field of a spec, its range and default.

    With a part, such as "train", only that part's; with a field, such as "learning_rate", or what another
    trainer calls it, "lr", only that.
    """
    from lorac.other_names import field_of
    from lorac.reference import reference
    from lorac.render import reference_text

    every = reference()
    rows = [row for row in every if part is None or row.field.startswith(f"{part}.") or row.part == part]
    rows = rows or [row for row in every if part in (row.field, row.field.rpartition(".")[2])]
    rows = rows or [row for row in every if part and field_of(part) == row.field]
    if not rows:
        parts = dict.fromkeys(row.field.rpartition(".")[0] for row in every if "." in row.field)
        raise click.UsageError(f"no part or field {part!r}: the parts are {', '.join(parts)}")
    if as_json:
        print_json([attrs.asdict(row) for row in rows])
        return
    say(reference_text(rows, width()))


@command(
    "import",
    click.argument("file", type=A_PATH),
    click.option("--out", type=A_PATH, help="The spec to write (default: specs/NAME.py)."),
    click.option("--all", "each", is_flag=True, help="List the keys that a spec has no need of, too."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every key."),
)
def import_(file: Path, out: Path | None, each: bool, as_json: bool) -> None:
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
    say(show.text(imported, width(), each))
