"""A base in several files: which of them holds which component, told by its tensors, and all of them as one.

What people download of a large model is its transformer, its text encoders and its autoencoder, each in a file of its
own; a vocabulary is a folder. A file that is named beside the base's own stands before what that has itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from runtime.errors import InputError, Problem
from runtime.families import fewer_bits
from runtime.safeio import weights

if TYPE_CHECKING:
    from runtime.families.protocol import Architecture, Family, Shapes

Files = Mapping[str, Path]
"""Component, or a vocabulary's folder ("tokenizer"), -> where it is, of those that the base's own file has not."""


@attrs.frozen
class Part:
    """A component that comes in a file of its own, too: what people call it, what its names begin with in a file with
    everything, and names of which it has one, without that."""

    title: str
    prefixes: tuple[str, ...]
    known_by: tuple[str, ...]


def has(shapes: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def within(names: Iterable[str], *prefixes: str) -> str:
    """What a component's names begin with: one of these, or nothing in a file of its own."""
    found = list(names)
    return next((prefix for prefix in prefixes if has(found, prefix)), "")


def shapes_of(path: Path) -> Shapes:
    """The tensors of a single file, none read. Raises InputError, also for weights in a form that is not read."""
    with weights.open_weights(path) as file:
        fewer_bits.refuse_packed(file)
        return {name: file[name].shape for name in fewer_bits.names(file)}


def assigned(of: Family, places: Sequence[Path]) -> dict[str, Path]:
    """What each of these files and folders holds of a base. Raises InputError for all that hold nothing of it.

    Of two files that would both do (CLIP-L and CLIP-G have the same names) the smaller is the first.
    """
    missing = [
        Problem(str(place), "is not here", "give its place in base.parts")
        for place in places
        if not place.exists()
    ]
    if missing:
        raise InputError(missing)
    found: dict[str, Path] = {}
    problems = []
    for place in sorted(places, key=_size):
        held = _held(of, place, [name for name in (*of.PARTS, *of.BESIDE) if name not in found])
        found |= dict.fromkeys(held, place)
        if not held:
            titles = [part.title for part in of.PARTS.values()] + [f"{one}/" for one in of.BESIDE]
            takes = f"still takes of {', '.join(titles)}" if titles else "takes beside its one file"
            what = f"holds nothing that {of.TITLE} {takes}"
            problems.append(Problem(str(place), what, "take it out of base.parts, or give another file"))
    if problems:
        raise InputError(problems)
    return found


def _size(place: Path) -> int:
    return place.stat().st_size if place.is_file() else 0


def _held(of: Family, place: Path, open_: Sequence[str]) -> list[str]:
    """What of a base, that no other file has, is in this one: all of a file with several components, or the one that
    a file is."""
    if place.is_dir():
        return [name for name in of.BESIDE if name in open_]
    names, kinds = shapes_of(place), {name: part for name, part in of.PARTS.items() if name in open_}

    def those(prefixed: bool) -> list[str]:
        return [
            name
            for name, part in kinds.items()
            for prefix in (part.prefixes if prefixed else ("",))
            if any(f"{prefix}{known}" in names for known in part.known_by)
        ]

    return those(True) or those(False)[:1]


def joined(of: Family, own: Shapes, found: Files) -> Shapes:
    """The tensors of a base's own file and of its parts, as a file with everything names them."""
    made = {name: shape for name, shape in own.items() if not name.startswith(_prefixes(of, found))}
    for component, part in of.PARTS.items():
        if component in found:
            shapes = shapes_of(found[component])
            theirs = within(shapes, *part.prefixes)
            made |= {
                part.prefixes[0] + name.removeprefix(theirs): shape
                for name, shape in shapes.items()
                if name.startswith(theirs)
            }
    return made


def _prefixes(of: Family, found: Files) -> tuple[str, ...]:
    return tuple(prefix for name, part in of.PARTS.items() if name in found for prefix in part.prefixes)


def configs(
    of: Mapping[str, Part], shapes: Shapes, made: Mapping[str, Callable[[], dict[str, Any]]]
) -> dict[str, Any]:
    """The configs of those components that are among a single file's tensors, each made by its function."""
    return {
        name: config()
        for name, config in made.items()
        if any(has(shapes, prefix) for prefix in of[name].prefixes)
    }


def require(of: Family, architecture: Architecture, where: str) -> None:
    """Raise InputError where a single file and its parts lack a component."""
    missing = [part.title for name, part in of.PARTS.items() if name not in architecture]
    if missing:
        them = "it" if len(missing) == 1 else "them"
        hint = (
            f'name the files with {them}: Base("…", parts=("…",)); or give the diffusers folder as the base'
        )
        raise InputError(Problem(where, f"is a {of.TITLE} file without {', '.join(missing)}", hint))


def place(path: Path, folder: str) -> Path:
    """Where a base's vocabulary is to be: in its folder, beside its file, or `path` itself, which has one's config."""
    around = path if path.is_dir() else path.parent
    is_it = not (around / folder).is_dir() and path.is_dir() and (path / "tokenizer_config.json").is_file()
    return path if is_it else around / folder


def vocabulary(of: Family, path: Path, found: Files) -> Path:
    """Where the base's vocabulary is looked for: in a folder that is named, or in or beside the base's own."""
    return next((found[name] for name in of.BESIDE if name in found), path)


def files(of: Family, path: Path, found: Files) -> Iterator[tuple[str, Path]]:
    """Every file that loading may read beside the base's own, each by what it is there."""
    yield from sorted((name, place) for name, place in found.items() if name in of.PARTS)
    for name in of.BESIDE:
        folder = place(vocabulary(of, path, found), name)
        yield from sorted((f"{name}/{file.name}", file) for file in folder.glob("*") if file.is_file())
