"""The words that the demo's labeller chooses from name what the demo trains on."""

from __future__ import annotations

import csv
from pathlib import Path

from runtime.label.words import lists

EMOJI = Path(__file__).parents[2] / "specs" / "emoji"


def test_every_caption_of_the_demo_can_be_said() -> None:
    subjects = set(lists([EMOJI / "words"])["subject"])
    for part in ("twemoji/train", "noto/heldout"):
        with (EMOJI / part / "metadata.csv").open(encoding="utf-8", newline="") as file:
            said = {row["prompt"].removesuffix(", twemoji style") for row in csv.DictReader(file)}
        assert said <= subjects
