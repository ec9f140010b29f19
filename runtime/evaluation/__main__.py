"""`python -m runtime.evaluation RUN`: evaluate a finished run over its checkpoints and LoRA weights.

Works without lorac. Writes evaluation.json, for pictures also evaluation/ and grid.png, to the run's folder.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.ending import ended
from runtime.errors import Problem, SpecError

if TYPE_CHECKING:
    from runtime import plan
    from runtime.evaluation.results import Evaluation, Row
    from runtime.evaluation.subject import Subject

WEIGHTS = "0.6,0.8,1.0"
MOST_WEIGHT = 2.0
FEW = 8
"""Held-out pictures below which it is said how few they are."""
SERIES = 2
"""Pictures of each prompt: diversity needs two."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, evaluate, and turn every end into its exit code (see `runtime.errors`)."""
    options = parser().parse_args(arguments)
    return ended(lambda: _with_words_apart(options), lambda: options.debug)


def _with_words_apart(options: argparse.Namespace) -> None:
    from runtime import log

    with log.apart(options.json):
        carry_out(options)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m runtime.evaluation",
        description="Evaluate a finished run over its checkpoints and LoRA weights.",
        allow_abbrev=False,
    )
    made.add_argument("run", type=Path, help="the run's folder")
    made.add_argument("--weights", default=WEIGHTS, help=f"LoRA weights with commas ({WEIGHTS})")
    made.add_argument("--checkpoints", choices=("all", "last"), default="all", help="which of those on disk")
    made.add_argument("--seeds", type=int, default=SERIES, help=f"pictures of each prompt ({SERIES})")
    made.add_argument("--judge", help="an open_clip model: a folder, or NAME/WEIGHTS")
    made.add_argument("--apply", action="store_true", help="make the recommended weight the preferred one")
    made.add_argument("--base", type=Path, help="where the base is, if not where it was planned")
    made.add_argument("--data", type=Path, help="where the data is, if not where it was planned")
    made.add_argument("--json", action="store_true", help="print what is written to evaluation.json")
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    return made


def carry_out(options: argparse.Namespace) -> None:
    """Load the run, measure every row, write what was found. Raises LoracError."""
    weights = wanted(options)
    from runtime import log, plan
    from runtime.evaluation import apply, results, subject
    from runtime.preflight import Where, parts_of
    from runtime.safeio import paths

    of, manifest = subject.read(options.run)
    if of.program.data.kind == "clips":
        raise SpecError(Problem(str(options.run), "is a LoRA for clips, which are not evaluated yet"))
    if options.apply and not isinstance(of.program.data, plan.Images):
        raise SpecError(Problem("--apply", "is for pictures: nothing offers a weight for a language model"))
    where = Where(
        base=options.base or Path(of.outputs.places.base),
        data=options.data or Path(of.outputs.places.data),
        output=options.run,
        log=options.run / "logs",
        cache=paths.cache_folder(),
        parts=parts_of(of.outputs.places),
    )
    (options.run / results.FILE).unlink(missing_ok=True)
    loaded = subject.load(of, manifest, where)
    found = evaluated(loaded, options, weights)
    results.write(found, options.run)
    if options.apply:
        apply.prefer(loaded, found.chosen.weight)
    for warning in found.warnings:
        log.warn(warning)
    sys.stdout.write(results.dumps(found) if options.json else told(found, options))


def wanted(options: argparse.Namespace) -> list[float]:
    """The weights that are asked for, rising. Raises SpecError with all that is wrong in the options."""
    try:
        weights = sorted({float(word) for word in options.weights.split(",")})
    except ValueError:
        weights = [math.nan]
    problems = []
    if not all(0 < weight <= MOST_WEIGHT for weight in weights):
        what = f"must be numbers above 0 and at most {MOST_WEIGHT:g} with commas, got {options.weights!r}"
        problems.append(Problem("--weights", what))
    if not 1 <= options.seeds <= 64:
        problems.append(Problem("--seeds", f"must be between 1 and 64, got {options.seeds}"))
    if problems:
        raise SpecError(problems)
    return weights


def evaluated(of: Subject, options: argparse.Namespace, weights: Sequence[float]) -> Evaluation:
    """Every row, what is recommended, and the grid of a run of pictures."""
    from runtime import choice, log, plan
    from runtime.evaluation import judge, pictures, recommend, results, subject, texts
    from runtime.sampling import save_png

    is_pictures = isinstance(of.program.data, plan.Images)
    name = judge.find(options.judge, of.where.base) if is_pictures else None
    if options.judge and not is_pictures:
        raise SpecError(Problem("--judge", "is for pictures, and this is a language model"))
    clip = judge.load(name) if name else None
    scene = pictures.scene(of, clip, options.seeds) if is_pictures else None
    steps = subject.steps(of, options.checkpoints == "last")

    def row(step: int, weight: float) -> Row:
        return pictures.row(scene, step, weight) if scene else texts.row(of, step, weight)

    rows = []
    with log.Bar("evaluated", 1 + len(steps) * len(weights)) as bar:
        base = row(0, 0.0)
        bar.step()
        for step in steps:
            subject.restore(of, step)
            for weight in weights:
                rows.append(row(step, weight))
                bar.step()
    exported, chosen = of.manifest.run.steps, of.manifest.run.choice
    weight, why = recommend.weight(
        [one for one in rows if one.step == exported], of.of.outputs.preferred_weight
    )
    has_grid = scene is not None and bool(base.pictures)
    if scene and has_grid:
        save_png(pictures.grid(scene, base, rows), of.where.output / results.GRID)
    return results.Evaluation(
        plan_hash=of.of.plan_hash,
        name=of.of.outputs.name,
        kind="images" if is_pictures else "text",
        judge=clip.judge if clip else None,
        threshold=scene.threshold if scene else None,
        base=base,
        rows=tuple(rows),
        chosen=results.Chosen(
            step=exported,
            weight=weight,
            step_reason=chosen.rule if chosen else choice.LAST,
            weight_reason=why,
        ),
        grid=results.GRID if has_grid else "",
        warnings=tuple(warnings(of.of, clip is not None, rows, exported)),
    )


def warnings(of: plan.Plan, is_judged: bool, rows: Sequence[Row], exported: int) -> list[str]:
    """What a person should know: what could not be measured, and pictures that repeat the training pictures."""
    from runtime import plan

    found = []
    if not of.program.data.held_out:
        found.append("nothing is held out, so there is no held-out loss: set held_out, such as 0.1")
    if not isinstance(of.program.data, plan.Images):
        return found
    if 0 < len(of.program.data.held_items) < FEW:
        count = len(of.program.data.held_items)
        found.append(f"few: the held-out loss, and what is chosen by it, rests on {count} pictures")
    if not is_judged:
        found.append(
            "no judge: similarity and closeness are not measured, diversity is by pixels; give --judge DIR"
        )
    return [*found, *memorised(rows, exported)]


def memorised(rows: Sequence[Row], exported: int) -> Iterator[str]:
    """Which pictures repeat the training pictures: the exported checkpoint's, or else those of the first that does."""
    from runtime.evaluation import recommend

    def told(row: Row) -> str:
        return f"at weight {row.weight:g}, {'; '.join(recommend.signs(row))}"

    copying = [row for row in rows if recommend.copies(row)]
    own = [row for row in copying if row.step == exported]
    for row in own:
        yield f"memorised: {told(row)}: train for less, or on more pictures"
    if copying and not own:
        first = min(copying, key=lambda row: (row.step, row.weight))
        yield f"memorised by step {first.step}: {told(first)}; step {exported}, which is exported, is clear of it"


def told(found: Evaluation, options: argparse.Namespace) -> str:
    """The rows as a table, and what is recommended."""
    from runtime.evaluation import results

    columns = [
        "loss",
        "perplexity",
        "similarity",
        "closeness",
        "diversity",
        "nearest",
        "copies",
        "repetition",
    ]
    shown = [(row, [_said(getattr(row, name)) for name in columns]) for row in (found.base, *found.rows)]
    kept = [at for at in range(len(columns)) if any(cells[at] for _, cells in shown)]
    lines = ["  ".join([f"{'step':>8} {'weight':>6}", *(f"{columns[at]:>10}" for at in kept)])]
    for row, cells in shown:
        name = f"{row.step:>8} {row.weight:>6g}" if row.step else f"{'base':>8} {'':>6}"
        lines.append("  ".join([name, *(f"{cells[at]:>10}" for at in kept)]))
    chosen, folder = found.chosen, options.run
    lines += [
        "",
        f"exported: step {chosen.step}, {chosen.step_reason}",
        f"recommended weight: {chosen.weight:g}, {chosen.weight_reason}",
        f"wrote {folder / results.FILE}" + (f" and {folder / found.grid}" if found.grid else ""),
    ]
    if options.apply:
        lines.append(f"the preferred weight is now {chosen.weight:g}")
    return "\n".join(lines) + "\n"


def _said(value: object) -> str:
    from runtime.evaluation.results import Figure

    if value is None:
        return ""
    return f"{value.mean if isinstance(value, Figure) else value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
