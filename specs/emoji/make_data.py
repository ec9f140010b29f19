"""Make the demo's pictures: `python specs/emoji/make_data.py --google DIR --twitter DIR`.

Twemoji is the style to learn. Its pictures are split into concepts to train on and concepts held out; the
held-out ones come with Noto's picture of the same concept, so that a LoRA's effect can be measured.
"""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import attrs
import click
import numpy as np
from pictures import Concept, over_white, picture_path, read_concepts

HERE = Path(__file__).parent
TRIGGER = "twemoji style"

# How many pictures of each subject to train on and to hold out. A style LoRA learns from what it has much of, and a
# base of 20 MB knows little that generalises: faces and hearts, where both sets draw the same motif, Noto shaded and
# outlined, Twemoji flat and larger.
SPLIT = {"face": (80, 34), "heart": (14, 8)}

ATTRIBUTION = """# Whose pictures these are

- `twemoji/`: Twemoji graphics, © Twitter, Inc and other contributors, in the fork's version 16.0.1
  (https://github.com/jdecked/twemoji), licensed under CC-BY 4.0
  (https://creativecommons.org/licenses/by/4.0/). Taken from the npm package `emoji-datasource-twitter` 16.0.0.
- `noto/`: Noto Emoji, © Google LLC, version 2.048 (https://github.com/googlefonts/noto-emoji), licensed under
  the Apache License 2.0. Taken from the npm package `emoji-datasource-google` 16.0.0.

Changes: each 64×64 picture was laid over white and its file renamed after what it shows. The names are those
of `emoji.json` in these packages (MIT licence, © 2013 Cal Henderson). `make_data.py` makes the folders.
"""


@attrs.frozen
class Pair:
    """One concept drawn by both sets, and how well it shows the difference of style, a higher score better."""

    concept: Concept
    score: float


def _colours(pixels: np.ndarray) -> int:
    """How many colours (4 bits a channel) cover at least 4 pixels each: few in a flat picture."""
    _, counts = np.unique((pixels >> 4).reshape(-1, 3), axis=0, return_counts=True)
    return int((counts >= 4).sum())


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of the two pictures' inked areas."""
    a, b = first.min(axis=2) < 250, second.min(axis=2) < 250
    return float((a & b).sum() / max(1, (a | b).sum()))


def _score(noto: np.ndarray, twemoji: np.ndarray) -> float:
    """Same outline (overlap) times how much flatter Twemoji is (log ratio of the colour counts)."""
    return _overlap(noto, twemoji) * float(np.log(_colours(noto) / _colours(twemoji)))


def choose(
    google: Path, twitter: Path, split: dict[str, tuple[int, int]]
) -> tuple[list[Concept], list[Concept]]:
    """The concepts to train on and those held out: per subject the best-scoring pairs, dealt at random.

    The deal depends on the file names alone (CRC-32), so it's the same on every machine.
    """
    by_subject: dict[str, list[Pair]] = {}
    for concept in read_concepts(google):
        noto, twemoji = (np.asarray(over_white(picture_path(p, concept.file))) for p in (google, twitter))
        by_subject.setdefault(concept.subject, []).append(Pair(concept, _score(noto, twemoji)))
    train: list[Concept] = []
    heldout: list[Concept] = []
    for subject, (to_train, to_hold) in split.items():
        best = sorted(by_subject[subject], key=lambda pair: (-pair.score, pair.concept.file))[
            : to_train + to_hold
        ]
        dealt = sorted((pair.concept for pair in best), key=lambda c: zlib.crc32(c.file.encode()))
        train += dealt[:to_train]
        heldout += dealt[to_train:]
    return train, heldout


def _write_pictures(folder: Path, package: Path, concepts: list[Concept]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for concept in concepts:
        over_white(picture_path(package, concept.file)).save(
            folder / f"{file_stem(concept)}.png", optimize=True
        )


def file_stem(concept: Concept) -> str:
    """A readable file name: `cat face` → `cat-face`."""
    return concept.names[0].replace(" ", "-")


def _write_metadata(folder: Path, concepts: list[Concept], suffix: str) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "prompt"])
        rows.writerows([f"{file_stem(c)}.png", f"{c.prompt}{suffix}"] for c in concepts)


@click.command()
@click.option(
    "--google", type=click.Path(exists=True, path_type=Path), required=True, help="emoji-datasource-google"
)
@click.option(
    "--twitter", type=click.Path(exists=True, path_type=Path), required=True, help="emoji-datasource-twitter"
)
def main(google: Path, twitter: Path) -> None:
    """Write twemoji/train, twemoji/heldout and noto/heldout beside this script."""
    train, heldout = choose(google, twitter, SPLIT)
    for folder, package, concepts, suffix in (
        (HERE / "twemoji" / "train", twitter, train, f", {TRIGGER}"),
        (HERE / "twemoji" / "heldout", twitter, heldout, f", {TRIGGER}"),
        (HERE / "noto" / "heldout", google, heldout, ""),
    ):
        _write_pictures(folder, package, concepts)
        _write_metadata(folder, concepts, suffix)
    (HERE / "ATTRIBUTION.md").write_text(ATTRIBUTION, encoding="utf-8")
    click.echo(f"{len(train)} pictures to train on, {len(heldout)} held out in pairs")


if __name__ == "__main__":
    main()
