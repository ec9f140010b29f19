"""The emoji pictures and their words: which concepts the base learns, and how a concept is called.

Source: the npm packages emoji-datasource-google and emoji-datasource-twitter 16.0.0. Both hold the same
`emoji.json` and the same file names, so each concept is a pair of pictures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
import numpy as np
from PIL import Image

SIZE = 64

# The word after the comma in a prompt, by emoji.json's subcategory (the first prefix that fits).
# A subcategory that is not here isn't learned: flags, symbols, letters, clock times and people, whose
# skin tones and gendered variants would be a third of the set.
SUBJECTS = {
    "cat-face": "animal face",
    "monkey-face": "animal face",
    "face-": "face",
    "heart": "heart",
    "emotion": "sign",
    "body-parts": "body part",
    "hand": "hand",
    "animal-bird": "bird",
    "animal-bug": "insect",
    "animal-": "animal",
    "plant-": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-": "food",
    "drink": "drink",
    "dishware": "object",
    "transport-ground": "vehicle",
    "transport-air": "vehicle",
    "transport-water": "vehicle",
    "sky & weather": "sky",
    "place-": "place",
    "hotel": "object",
    "clothing": "clothing",
    "musical-instrument": "music",
    "event": "object",
    "award-medal": "object",
    "sport": "sport",
    "game": "game",
    "arts & crafts": "object",
    "sound": "object",
    "music": "music",
    "phone": "object",
    "computer": "object",
    "light & video": "object",
    "book-paper": "object",
    "money": "object",
    "mail": "object",
    "writing": "object",
    "office": "object",
    "lock": "object",
    "tool": "tool",
    "science": "object",
    "medical": "object",
    "household": "object",
    "other-object": "object",
    "time": "object",
}

# emoji.json says DOG FACE for the head and DOG for the whole animal; the faces belong to the animals.
_FACE_OF_ANIMAL = re.compile(r" face$")
# Twelve hours and twelve half-hours of one clock, and the moon's phases but for two, teach nothing new.
_LEFT_OUT = re.compile(r"clock face|waxing|waning|quarter moon|^(wo)?man |^kiss$|^couple|\bno \b|regional")


@attrs.frozen(kw_only=True)
class Concept:
    """One emoji: its file (the same name in both sets), its names, most formal first, and its subject word."""

    file: str
    short_name: str
    names: tuple[str, ...]
    subject: str
    subcategory: str

    @property
    def prompt(self) -> str:
        """The canonical prompt, as in `cat face, animal`."""
        return f"{self.names[0]}, {self.subject}"

    @property
    def flips(self) -> bool:
        """Whether a mirrored picture is still the same thing: not for writing, hands and clocks."""
        return self.subcategory not in _ONE_HANDED


_ONE_HANDED = {
    "hand-fingers-open",
    "hand-fingers-partial",
    "hand-single-finger",
    "hand-fingers-closed",
    "hand-prop",
    "book-paper",
    "money",
    "mail",
    "sound",
    "emotion",
    "time",
    "office",
    "phone",
    "computer",
    "game",
    "musical-instrument",
}


def _subject(entry: dict) -> str | None:
    for prefix, word in SUBJECTS.items():
        if entry["subcategory"].startswith(prefix):
            return word
    return None


def _names(entry: dict) -> tuple[str, ...]:
    """Lower-case names without punctuation, most formal first, each once.

    A trailing number in a short name (`cat2`) only tells two emoji apart, so such a short name is left out.
    """
    raw = [entry["name"].split(" -- ")[0], *(s for s in entry["short_names"] if not re.search(r"\d$", s))]
    words = (re.sub(r"[^a-z0-9 ]+", " ", name.lower().replace("\u2019", "")).split() for name in raw)
    return tuple(dict.fromkeys(" ".join(w) for w in words))


def read_concepts(google: Path) -> list[Concept]:
    """Every concept the base learns, in emoji.json's sort order. `google` is the npm package's folder."""
    entries = json.loads((google / "emoji.json").read_text(encoding="utf-8"))
    concepts = []
    for entry in sorted(entries, key=lambda e: e["sort_order"]):
        subject = _subject(entry)
        names = _names(entry)
        if subject is None or not (entry["has_img_google"] and entry["has_img_twitter"]):
            continue
        if _LEFT_OUT.search(names[0]):
            continue
        concepts.append(
            Concept(
                file=entry["image"],
                short_name=entry["short_name"],
                names=names,
                subject=subject,
                subcategory=entry["subcategory"],
            )
        )
    return concepts


def picture_path(package: Path, file: str) -> Path:
    """Where an npm package keeps a picture: `img/<set>/64/<file>`."""
    (folder,) = (package / "img").iterdir()
    return folder / str(SIZE) / file


def over_white(path: Path) -> Image.Image:
    """The picture as 64×64 RGB over white."""
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def read_pixels(package: Path, files: list[str]) -> np.ndarray:
    """uint8 array (n, 64, 64, 3) of the named pictures over white."""
    return np.stack([np.asarray(over_white(picture_path(package, file))) for file in files])
