"""The mask files of a data set: grey pictures in a folder of their own, named as the pictures that they are for."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from lorac.data_folder import Folder
from lorac.spec import Images
from runtime import plan
from runtime.errors import Problem

Sizes = Mapping[str, tuple[int, int]]


def kind_of(images: Images) -> plan.Mask:
    """Where masks come from."""
    return "alpha" if images.alpha_mask else "none" if images.mask_path is None else "files"


def split(images: Images, tree: Folder) -> tuple[Folder, Folder]:
    """The folder without its masks, and its masks alone."""
    start = f"{images.mask_path}/" if images.mask_path is not None else None
    masks = {n: path for n, path in tree.pictures.items() if start is not None and n.startswith(start)}
    pictures = {name: path for name, path in tree.pictures.items() if name not in masks}
    return attrs.evolve(tree, pictures=pictures), attrs.evolve(tree, pictures=masks, others={}, bad={})


def pair(images: Images, tree: Folder, sizes: Sizes, masks: Sizes) -> tuple[dict[str, str], list[Problem]]:
    """The mask of each picture that has one, and what is wrong. `sizes` and `masks` are of those that are whole.

    The mask of 10_cat/a.jpg is 10_cat/a.png in the folder of masks, whatever the suffix.
    """
    if images.mask_path is None:
        return {}, []
    if not masks:
        hint = "put the masks there, or leave data.mask_path out"
        return {}, [Problem(tree.shown(images.mask_path), "has no masks", hint)]
    of = {_stem(name.removeprefix(f"{images.mask_path}/")): name for name in masks}
    paired = {name: of[_stem(name)] for name in sizes if _stem(name) in of}
    problems = [
        Problem(
            tree.shown(mask),
            f"is {_shown(masks[mask])}, its picture {_shown(sizes[name])}",
            "make them one size",
        )
        for name, mask in paired.items()
        if masks[mask] != sizes[name]
    ]
    all_stems = {_stem(name) for name in tree.pictures}
    problems += [
        Problem(
            tree.shown(mask), "is the mask of no picture", "name it as its picture is named, or remove it"
        )
        for stem, mask in of.items()
        if stem not in all_stems
    ]
    return paired, problems


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} pixels"
