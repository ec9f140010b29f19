"""The folders of a data set that count otherwise than the rest: `Images(folders=…)`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from lorac.data_folder import Folder as Tree
from lorac.spec import Folder, Images
from runtime import plan
from runtime.errors import Problem

PLAIN = Folder(".")
"""What a picture is in that lies in none of them."""


def subset_of(images: Images, name: str) -> Folder:
    """The innermost of the spec's folders that a picture lies in."""
    around = [folder for folder in images.folders if name.startswith(f"{folder.path}/")]
    return max(around, key=lambda folder: len(folder.path), default=PLAIN)


def is_prior(images: Images, name: str) -> bool:
    """Whether a picture is of the class that the base knows already."""
    return subset_of(images, name).prior


def wrong_folders(images: Images, tree: Tree) -> Iterator[Problem]:
    """Folders of the spec that no picture lies in, and a set of nothing but prior pictures."""
    for folder in images.folders:
        if not any(name.startswith(f"{folder.path}/") for name in tree.pictures):
            yield Problem(
                tree.shown(folder.path), "has no pictures", "leave its Folder(…) out, or mend the path"
            )
    if all(is_prior(images, name) for name in tree.pictures):
        yield Problem(tree.shown(""), "has prior pictures only", "add the pictures to learn beside them")


def balanced(images: Images, items: tuple[plan.Item, ...]) -> tuple[plan.Item, ...]:
    """The items with as many samples of prior pictures as of all others together, as sd-scripts has them.

    The first of them by name are seen once more where they do not go in evenly, and the last not at all where there are
    more of them than of the others.
    """
    prior = [item for item in items if is_prior(images, item.path)]
    if not prior:
        return items
    wanted = sum(item.repeats for item in items if not is_prior(images, item.path))
    each, rest = divmod(wanted, len(prior))
    times = {(item.path, item.bucket): each + (place < rest) for place, item in enumerate(prior)}
    repeated = (
        attrs.evolve(item, repeats=times.get((item.path, item.bucket), item.repeats)) for item in items
    )
    return tuple(item for item in repeated if item.repeats)
