"""The words that a CLIP chooses from: a list for each kind, one word or phrase a line; `#` starts a comment line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.errors import InputError, Problem, SpecError
from runtime.safeio import paths, texts

KINDS = ("subject", "medium", "style", "colour", "light", "composition")
"""In the order in which they stand in a caption."""

OURS = Path(__file__).parent


def lists(given: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Kind -> words. A folder that is given stands in for our lists, and a file adds to the list it is named after.

    Raises SpecError for a file that is named after no kind, InputError for one that cannot be read or has no words.
    """
    folders = [path for path in given if path.is_dir()] or [OURS]
    files = [path for path in given if not path.is_dir()]
    wrong = [
        Problem(paths.display(path), "is named after no list", f"name it {', '.join(KINDS)} and .txt")
        for path in files
        if path.stem not in KINDS
    ]
    if wrong:
        raise SpecError(wrong)
    inside = [path for folder in folders for kind in KINDS if (path := folder / f"{kind}.txt").is_file()]
    found: dict[str, tuple[str, ...]] = {}
    for path in [*inside, *files]:
        found[path.stem] = tuple(dict.fromkeys([*found.get(path.stem, ()), *_words(path)]))
    if not found:
        shown = ", ".join(paths.display(folder) for folder in folders)
        hint = f"put a list there: {', '.join(f'{kind}.txt' for kind in KINDS)}"
        raise InputError(Problem(shown, "holds no list of words", hint))
    return found


def _words(path: Path) -> list[str]:
    with paths.open_file(path) as file:
        lines = texts.decode(file.read(), path).splitlines()
    words = [" ".join(line.split()) for line in lines if not line.startswith("#")]
    if not any(words):
        raise InputError(Problem(paths.display(path), "holds no words", "write one a line"))
    return [word for word in words if word]
