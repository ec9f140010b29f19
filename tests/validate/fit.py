"""What `lorac fit` says of SDXL and FLUX.1 on four cards, and published figures beside it.

`python -m tests.validate.fit` (or `just validate-fit`) writes docs/fit.json and docs/fit.md, anew after each plan; the
cards that nothing fits take longest. No base is read: every plan is made `--unlocked`, from the family's published
architecture.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from lorac import fit
from lorac.changes import Settings, Values, changed, variants
from lorac.compile import compile_experiment
from lorac.load import Loaded, load
from runtime import plan
from runtime.errors import DoesNotFit
from runtime.human import clock, size

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CARDS = ("8GB", "12GB", "16GB", "24GB")
PACKAGES = ("torch", "diffusers", "transformers", "bitsandbytes")
GB = 1e9

ASKED = (
    ("specs/sdxl.py", (1024,)),
    ("specs/flux1.py", (512, 768, 1024)),
)
"""Specs, and the pixels that each is fitted at."""

SIMPLETUNER = "SimpleTuner, documentation/quickstart/FLUX.md"
SD_SCRIPTS = "sd-scripts, docs/flux_train_network.md, 6.1"
ROOM = "80GB"
"""A card on which nothing has to be traded: what the step itself takes is seen."""
ALONE: Settings = {
    "train.effective_batch": 1,
    "fit.micro_batch": 1,
    "fit.gradient_checkpointing": True,
    "data.caption_dropout": 0.0,
}
"""One picture a step, every block recomputed."""
EVERY_LAYER: Settings = {**ALONE, "adapter.targets": "all-linear", "fit.optimizer_bits": 32}
FP8: Settings = {**ALONE, "fit.quantization": "fp8", "data.resolution": 1024}


@attrs.frozen
class Published:
    """What a publisher says a setting takes, and the nearest that a spec of ours can ask for."""

    setting: str
    says: str
    source: str
    spec: str
    card: str
    settings: Settings


PUBLISHED = (
    *(
        Published(
            f"FLUX.1 dev, rank 16 on every layer, batch 1, 512 px, base {base}",
            says,
            SIMPLETUNER,
            "specs/flux1.py",
            ROOM,
            {**EVERY_LAYER, "fit.quantization": quantization},
        )
        for base, quantization, says in (
            ("in bf16", "none", "a bit more than 30 GB"),
            ("in int8", "int8", "a bit more than 18 GB"),
            ("in nf4", "nf4", "9.09 GB at 512 px"),
        )
    ),
    Published(
        "SDXL, UNet alone, rank 8, batch 1, 1024 px, 8-bit AdamW",
        "8 GB possible, 10 GB recommended",
        "sd-scripts, docs/train_SDXL-en.md",
        "specs/sdxl.py",
        ROOM,
        {**ALONE, "adapter.rank": 8, "adapter.alpha": 8, "fit.optimizer_bits": 8},
    ),
    *(
        Published(
            f"FLUX.1 dev, rank 16, base in fp8, batch {batch}, on {card}",
            says,
            SD_SCRIPTS,
            "specs/flux1.py",
            card,
            {**FP8, "train.effective_batch": batch, "fit.micro_batch": batch},
        )
        for card, batch, says in (
            ("24GB", 2, "no blocks swapped"),
            ("16GB", 1, "some blocks swapped"),
            ("12GB", 1, "16 blocks swapped"),
            ("10GB", 1, "22 blocks swapped"),
            ("8GB", 1, "28 blocks swapped"),
        )
    ),
)


@attrs.frozen(kw_only=True)
class Beside:
    """A published figure and our plan of its setting. `train_bytes` is the peak of the steps, `peak_bytes` of all
    phases; where nothing fits, `peak_bytes` is the least found and the rest None."""

    setting: str
    says: str
    source: str
    card: str
    fits: bool
    peak_bytes: int
    usable_bytes: int
    train_bytes: int | None = None
    offloaded: int | None = None
    seconds_per_step: float | None = None


def fitted() -> Iterator[fit.Row]:
    """What `lorac fit` answers, row by row."""
    for spec, sides in ASKED:
        for one in variants(load(ROOT / spec), [Values("data.resolution", sides)]):
            for card in CARDS:
                yield from fit.fit([one.loaded], [card], ROOT, unlocked=True, tell=tell)


def beside() -> Iterator[Beside]:
    """Our plan of each published setting."""
    for one in PUBLISHED:
        tell(f"planning {one.setting}")
        (loaded,) = load(ROOT / one.spec)
        yield _beside(one, loaded)


def _beside(one: Published, loaded: Loaded) -> Beside:
    said = {"setting": one.setting, "says": one.says, "source": one.source, "card": one.card}
    experiment = changed(loaded.experiment, one.settings)
    try:
        made = compile_experiment(experiment, ROOT, loaded.path.parent, card=one.card, unlocked=True)
    except DoesNotFit as error:
        return Beside(**said, fits=False, peak_bytes=error.peak_bytes, usable_bytes=error.usable_bytes)
    return Beside(
        **said,
        fits=True,
        peak_bytes=made.estimate.peak_bytes,
        usable_bytes=made.estimate.usable_bytes,
        train_bytes=made.estimate.phases["train"],
        offloaded=len(plan.blocks_away(made.program.compute)),
        seconds_per_step=made.estimate.seconds_per_step,
    )


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    report: dict[str, Any] = {
        "command": "python -m tests.validate.fit",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "fit": [],
        "published": [],
    }
    for table, rows in (("published", beside()), ("fit", fitted())):
        for row in rows:
            report[table].append(attrs.asdict(row))  # type: ignore[arg-type]
            (DOCS / "fit.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            (DOCS / "fit.md").write_text(page(report), encoding="utf-8")


def page(report: dict[str, Any]) -> str:
    """docs/fit.md."""
    return PAGE.format(
        command=report["command"],
        versions=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        fit="\n".join(_fit_row(row) for row in report["fit"]),
        published="\n".join(_published_row(row) for row in report["published"]),
    )


def _fit_row(row: dict[str, Any]) -> str:
    memory = f"{size(row['peak_bytes'])} of {size(row['usable_bytes'])}"
    where = f"| {row['name']} | {row['resolution']} | {row['card']} | {memory} |"
    if not row["fits"]:
        return f"{where} does not fit: {row['why']} | | | | |"
    base = "bf16" if row["quantization"] == "none" else row["quantization"]
    batch = f"{row['micro_batch']} × {row['accumulation']}"
    blocks = f"{row['checkpointed']} | {row['offloaded']}"
    return f"{where} {base} | {batch} | {blocks} | {clock(row['seconds'])} |"


def _published_row(row: dict[str, Any]) -> str:
    said = f"| {row['setting']} | {row['source']} | {row['says']} |"
    if not row["fits"]:
        return f"{said} does not fit: {row['peak_bytes'] / GB:.2f} GB | | | |"
    figures = f"{row['train_bytes'] / GB:.2f} | {row['peak_bytes'] / GB:.2f} | {row['offloaded']}"
    return f"{said} {figures} | {row['seconds_per_step']:.2f} |"


PAGE = """\
# What fits which card

Made by `{command}` (`just validate-fit`) with {versions}; the rows as data are in `fit.json`. Nothing was
measured on a card: every figure is a plan's, traced on a machine without one.

## SDXL and FLUX.1 by card

`lorac fit` of the specs, with `data.resolution` set: SDXL (`watercolour`: rank 32, effective batch 4) and FLUX.1 dev
(`flux-subject`: rank 16, effective batch 1, an nf4 base). "usable" is what the card offers less a desktop's share and
the margin; "away" counts blocks whose frozen weights wait in the computer's memory; the time is of the whole run.

| spec | pixels | card | peak of usable | base | micro-batch × accumulation | blocks recomputed | away | time |
| --- | ---: | --- | --- | --- | --- | ---: | ---: | ---: |
{fit}

## Beside published figures

GB are 10^9 bytes. "steps" is the peak of the train steps, "highest" that of all phases: encoding, loading, training,
sampling, saving. The first rows are planned for an 80 GB card, where nothing is traded: what the setting itself takes.
The last ones are planned for the card that the publisher names, at 1024 px, and the planner chooses how many of
FLUX.1's 57 blocks wait in the computer's memory; the publisher swaps them by hand. The published figures are
coarse ("a bit more than"), and say neither how they were read nor, but for one, at which size; the publishers' own
steps are not written out here, as those of `memory.md` are.

| setting | published by | says | ours: steps GB | highest GB | blocks away | s a step |
| --- | --- | --- | ---: | ---: | ---: | ---: |
{published}
"""


if __name__ == "__main__":
    main()
