"""metadata.csv as it is filled, and which of its captions a model wrote.

- What we wrote is put down in `.lorac-labels.json` by the caption's sha256, with a digest of how it was made: a caption
  whose hash is another was written or edited by a person, and is never overwritten.
- Captions beside the pictures (0001.txt) are a person's too; they are taken over, since a table hides them.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import attrs

from runtime.data import tables
from runtime.errors import InputError, Problem
from runtime.safeio import atomic, images, paths, strict_json, texts

TABLE = "metadata.csv"
NOTES = ".lorac-labels.json"
VERSION = 1

OURS_ALONE = "keep the two columns image,prompt in it, or move it away: lorac label makes it anew"


@attrs.frozen
class Written:
    """A caption that a model wrote: its sha256, and the digest of how it was made."""

    sha256: str
    by: str


@attrs.define
class Table:
    """Picture -> caption, in the order of the rows, under the columns' own names; and what of it we wrote."""

    root: Path
    columns: tuple[str, str]
    captions: dict[str, str]
    written: dict[str, Written]

    def is_by_hand(self, picture: str) -> bool:
        """Whether a person wrote or edited its caption."""
        caption = self.captions.get(picture, "")
        ours = self.written.get(picture)
        return bool(caption.strip()) and (ours is None or ours.sha256 != _sha256(caption))

    def is_done(self, picture: str, by: str) -> bool:
        """Whether its caption is just what would be made again."""
        ours, caption = self.written.get(picture), self.captions.get(picture, "")
        return ours == Written(_sha256(caption), by)

    def put(self, picture: str, caption: str, by: str) -> None:
        self.captions[picture] = caption
        self.written[picture] = Written(_sha256(caption), by)

    def save(self) -> None:
        """Write both files. The notes come first: a caption without a note would pass for a person's."""
        known = {picture: attrs.asdict(one) for picture, one in self.written.items()}
        notes = strict_json.canonical({"version": VERSION, "captions": known})
        atomic.write_text(self.root / NOTES, notes)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(self.columns)
        rows.writerows(self.captions.items())
        atomic.write_text(self.root / TABLE, text.getvalue())


def pictures_in(root: Path) -> dict[str, Path]:
    """Every picture below a folder by its name in the table, hidden ones apart. Raises InputError for none."""
    if not root.is_dir():
        raise InputError(Problem(paths.display(root), "is no folder", "give the folder of the pictures"))
    found = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)
        if path.suffix.lower() in images.SUFFIXES and path.is_file() and not is_hidden:
            found[paths.relative_name(root, path)] = path
    if not found:
        what = f"has no pictures; accepted are {' '.join(images.SUFFIXES)}"
        raise InputError(Problem(paths.display(root), what, "give the folder of the pictures"))
    return found


def read(root: Path, pictures: Mapping[str, Path]) -> Table:
    """What is there already, without our rows of pictures that are gone.

    Raises InputError with all that keeps the table from being written back whole.
    """
    if (root / "metadata.jsonl").is_file():
        what = "holds the captions, and would be hidden by a metadata.csv"
        raise InputError(Problem(paths.display(root / "metadata.jsonl"), what, "save it as metadata.csv"))
    columns, captions = _rows(root / TABLE)
    for picture, path in pictures.items():
        beside = path.with_suffix(".txt")
        if picture not in captions and beside.is_file():
            captions[picture] = _text(beside)
    made = Table(root=root, columns=columns, captions=captions, written=_notes(root / NOTES))
    for picture in [name for name in captions if name not in pictures and not made.is_by_hand(name)]:
        # A plan refuses rows whose picture is gone; a person's may be a slip worth seeing.
        del captions[picture]
    return made


def _rows(path: Path) -> tuple[tuple[str, str], dict[str, str]]:
    """The columns' names and the captions of a table; those of a new one where there is none."""
    columns, captions = (tables.IMAGE_COLUMNS[0], tables.TEXT_COLUMNS[0]), dict[str, str]()
    if not path.exists():
        return columns, captions
    problems = []
    for row in tables.rows(path):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        image = [name for name in row.values if name.lower() in tables.IMAGE_COLUMNS]
        text = [name for name in row.values if name.lower() in tables.TEXT_COLUMNS]
        if len(image) != 1 or len(text) != 1 or len(row.values) != 2:
            found = ", ".join(f"`{name}`" for name in row.values)
            raise InputError(
                Problem(paths.display(path), f"has the columns {found}, wanted image and prompt", OURS_ALONE)
            )
        columns = (image[0], text[0])
        name = str(row.values[image[0]]).strip().removeprefix("./")
        if name in captions:
            problems.append(Problem(row.where, f"{name} has a row already", "keep one of the two rows"))
        captions[name] = str(row.values[text[0]])
    if problems:
        raise InputError(problems)
    return columns, captions


def _text(path: Path) -> str:
    with paths.open_file(path) as file:
        return " ".join(texts.decode(file.read(), path).split())


def _notes(path: Path) -> dict[str, Written]:
    """What we wrote before; nothing where the notes are gone or are not ours, so that all counts as by hand."""
    if not path.is_file():
        return {}
    with paths.open_file(path) as file:
        found = strict_json.loads(file.read().decode("utf-8", errors="replace"), paths.display(path))
    try:
        return {
            str(name): Written(str(one["sha256"]), str(one["by"])) for name, one in found["captions"].items()
        }
    except (AttributeError, KeyError, TypeError):
        what = "is not what lorac label writes"
        hint = "move it away: every caption then counts as written by hand"
        raise InputError(Problem(paths.display(path), what, hint)) from None


def _sha256(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()
