"""The data lock: every picture of a data folder by sha256, size as shown, final caption, repeats and bucket.

- The lock is a function of the files' contents and names: not of locale, times, the order of creation or
  where the folder is.
- Every picture is decoded once, whole, so that a bad file stops the plan and not the run; all problems are
  told at once. With skip_bad they are left out and listed instead.
- A repeat folder's number (`10_name`) multiplies data.repeats, and so do the repeats of a `Folder`.
- A picture is one item at each resolution that it is large enough for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from lorac import buckets, known_pictures, masks
from lorac.captions import captions_of
from lorac.data_folder import MOST_REPEATS, Folder, read_folder, repeats_of
from lorac.spec import Images
from lorac.subsets import balanced, is_prior, subset_of, wrong_folders
from runtime import plan
from runtime.data import held_out
from runtime.errors import InputError, Problem
from runtime.safeio import digest, paths, strict_json
from runtime.safeio import images as pictures

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode: Pillow's decoders release the interpreter's lock."""

BATCH = 4096
"""Pictures that are decoded before they are remembered as whole: so much is done anew where planning is stopped."""

REPLACE = "replace the files, or set Images(skip_bad=True) to record them as skipped"
FEW_HELD_OUT = 8
"""Held-out pictures below which it is noted how few they are."""
CROPPED = 1 / 3
"""Share of a picture that is cropped away from which on it is noted."""

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""
Sizes = dict[str, tuple[int, int]]


@attrs.frozen(kw_only=True)
class Lock:
    """The locked pictures, what was left out of them (only with skip_bad), and what a person should know."""

    images: plan.Images
    skipped: tuple[Problem, ...]
    notes: tuple[str, ...]


def lock_images(
    images: Images,
    folder: Path,
    grid: int,
    *,
    cache: Path | None = None,
    spec_folder: Path = Path(),
    progress: Progress | None = None,
) -> plan.Images:
    """The pictures of `lock`, for callers that do not ask what was skipped."""
    return lock(images, folder, grid, cache=cache, spec_folder=spec_folder, progress=progress).images


def lock(
    images: Images,
    folder: Path,
    grid: int,
    *,
    cache: Path | None = None,
    spec_folder: Path = Path(),
    progress: Progress | None = None,
) -> Lock:
    """Lock a data folder for a family whose picture sides are multiples of `grid` pixels.

    `cache` keeps between plans what files' digests are and which pictures are whole; data.metadata_path is
    relative to `spec_folder`. Raises one InputError with all problems, or SpecError if the spec's resolution
    leaves no bucket.
    """
    rules = [buckets.rule_of(images, grid, side) for side in buckets.resolutions(images)]
    tree, masked = masks.split(images, read_folder(folder))
    captions, wrong_captions = captions_of(images, tree, spec_folder)
    repeats, wrong_repeats = _repeats(images, tree)
    hashes, unreadable = _hash(tree, cache)
    sizes, broken = _measure(tree, hashes, cache, progress)
    mask_of, mask_hashes, wrong_masks = _masks(images, tree, masked, sizes, cache)
    placed, too_small = _place(rules, tree, sizes)
    twins = _twins(tree, {name: hashes[name] for name in sizes})
    every = tuple(
        plan.Item(
            path=name,
            sha256=hashes[name],
            width=sizes[name][0],
            height=sizes[name][1],
            caption=captions[name],
            repeats=repeats[name],
            bucket=bucket,
            mask=mask_of.get(name, ""),
            mask_sha256=mask_hashes.get(mask_of.get(name, ""), ""),
            loss_weight=float(subset_of(images, name).loss_weight),
        )
        for name in placed
        if name in captions and name in repeats and name not in twins
        for bucket in placed[name]
    )
    items = balanced(images, every)
    in_pictures = [*unreadable, *broken, *too_small, *twins.values(), *wrong_masks]
    in_folders = [*wrong_folders(images, tree), *wrong_repeats]
    problems = [*tree.bad.values(), *in_folders, *wrong_captions, *in_pictures]
    if problems and not (images.skip_bad and items):
        raise InputError(problems)
    rest, held = _split(images, every)
    items = balanced(images, rest)
    return Lock(
        images=_images(images, items, held, sum(item.repeats for item in items)),
        skipped=tuple(problems),
        notes=(*_notes(items), *_notes_on_settings(images, rest, items), *_few(held)),
    )


def assume_images(images: Images, grid: int, count: int) -> plan.Images:
    """The same for `count` pictures that are elsewhere: no items. Raises SpecError if there is no bucket."""
    sides = buckets.resolutions(images)
    for side in sides:
        buckets.rule_of(images, grid, side)
    halves = 2 if any(folder.prior for folder in images.folders) else 1
    held = held_out.share(count, images.held_out) if images.held_out else 0
    return _images(images, (), (), max(1, count - held) * images.repeats * len(sides) * halves)


def assumed_buckets(images: Images, grid: int) -> tuple[buckets.Size, ...]:
    """The largest buckets (width, height) that pictures of any shape may get, by width. Raises SpecError."""
    return buckets.largest_buckets(buckets.rule_of(images, grid, max(buckets.resolutions(images))))


def _split(images: Images, items: tuple[plan.Item, ...]) -> tuple[tuple[plan.Item, ...], ...]:
    """What is trained on, and what is held out: by the files' contents alone, so alike on every machine.

    Prior pictures are never held out. A picture that is seen at several sizes is measured at its largest, once. Raises
    InputError where nothing is left to train on.
    """
    if not images.held_out:
        return items, ()
    learnt = {item.sha256: item for item in sorted(items, key=_area) if not is_prior(images, item.path)}
    held = held_out.by_digest(list(learnt), images.held_out, "data.held_out")
    return (
        tuple(item for item in items if item.sha256 not in held),
        tuple(item for item in items if item.sha256 in held and item == learnt[item.sha256]),
    )


def _area(item: plan.Item) -> int:
    return item.bucket[0] * item.bucket[1]


def _images(
    images: Images, items: tuple[plan.Item, ...], held: tuple[plan.Item, ...], expected: int
) -> plan.Images:
    return plan.Images(
        digest=strict_json.sha256(strict_json.Each(plan.unstructure, items)) if items else "",
        items=items,
        expected=expected,
        resolution=max(buckets.resolutions(images)),
        flip=images.flip,
        caption_dropout=float(images.caption_dropout),
        mask=masks.kind_of(images),
        unmasked_weight=float(images.unmasked_weight),
        caption_variants=images.caption_variants if images.shuffle_tags or images.tag_dropout else 1,
        shuffle_tags=images.shuffle_tags,
        keep_tags=images.keep_tags,
        tag_dropout=float(images.tag_dropout),
        held_out=float(images.held_out),
        held_items=held,
        augment=_augment(images),
    )


def _augment(images: Images) -> plan.Augment | None:
    """How pictures are varied; None where nothing asks for it."""
    if not (images.random_crop or images.random_zoom or images.color_jitter or images.hue_jitter):
        return None
    return plan.Augment(
        variants=images.picture_variants,
        random_crop=images.random_crop,
        random_zoom=float(images.random_zoom),
        color_jitter=float(images.color_jitter),
        hue_jitter=float(images.hue_jitter),
    )


# ----------------------------------------------------------------------------------------------------- stages


def _repeats(images: Images, folder: Folder) -> tuple[dict[str, int], list[Problem]]:
    """Times each picture is seen in an epoch; a folder whose number cannot be that is told once."""
    repeats: dict[str, int] = {}
    wrong: dict[str, Problem] = {}
    for name in folder.pictures:
        count, _ = repeats_of(name)
        if 1 <= count <= MOST_REPEATS:
            repeats[name] = count * images.repeats * subset_of(images, name).repeats
        else:
            top = name.partition("/")[0]
            what = f"would be seen {count:,} times an epoch; a number and `_` in front ask for repeats"
            wrong[top] = Problem(folder.shown(top), what, "rename the folder")
    return repeats, list(wrong.values())


def _hash(folder: Folder, cache: Path | None) -> tuple[dict[str, str], list[Problem]]:
    """The sha256 of every file that can be read."""
    sha256_files = (digest.DigestCache(cache) if cache else digest).sha256_files
    try:
        found, problems = sha256_files(folder.pictures.values()), []
    except InputError as error:
        problems = [_with_way_out(problem) for problem in error.problems]
        unreadable = {problem.where for problem in problems}
        found = sha256_files(
            path for path in folder.pictures.values() if paths.display(path) not in unreadable
        )
    return {name: found[path] for name, path in folder.pictures.items() if path in found}, problems


def _measure(
    folder: Folder, hashes: Mapping[str, str], cache: Path | None, progress: Progress | None
) -> tuple[Sizes, list[Problem]]:
    """Width and height as shown of every picture that decodes whole, or did so before."""
    known = known_pictures.read(cache) if cache else {}

    new = [name for name in hashes if hashes[name] not in known]

    def look(name: str) -> tuple[int, int] | list[Problem]:
        try:
            return pictures.open_picture(folder.pictures[name]).size
        except InputError as error:
            return [_with_way_out(problem) for problem in error.problems]

    sizes: Sizes = {name: known[sha256] for name, sha256 in hashes.items() if sha256 in known}
    problems: list[Problem] = []
    done = len(sizes)
    with ThreadPoolExecutor(WORKERS) as pool:
        for at in range(0, len(new), BATCH):  # all at once would be a million tasks that wait
            part = new[at : at + BATCH]
            found = {}
            for name, result in zip(part, pool.map(look, part), strict=True):
                done += 1
                if isinstance(result, list):
                    problems += result
                else:
                    found[name] = result
                if progress:
                    progress(done, len(hashes))
            sizes |= found
            if cache:
                known_pictures.add(cache, {hashes[name]: size for name, size in found.items()})
    return {name: sizes[name] for name in hashes if name in sizes}, problems


def _with_way_out(problem: Problem) -> Problem:
    is_general = problem.hint in ("", pictures.REPLACE)
    return attrs.evolve(problem, hint=REPLACE) if is_general else problem


def _masks(
    images: Images, tree: Folder, masked: Folder, sizes: Sizes, cache: Path | None
) -> tuple[dict[str, str], dict[str, str], list[Problem]]:
    """The mask of each picture, the sha256 of each mask, and what is wrong with masks."""
    hashes, unreadable = _hash(masked, cache)
    whole, broken = _measure(masked, hashes, cache, None)
    found, wrong = masks.pair(images, tree, sizes, whole)
    return found, hashes, [*unreadable, *broken, *wrong]


def _place(
    rules: Sequence[buckets.Rule], folder: Folder, sizes: Sizes
) -> tuple[dict[str, tuple[buckets.Size, ...]], list[Problem]]:
    """The buckets of each picture, one for each resolution that is not too large for it."""
    placed: dict[str, tuple[buckets.Size, ...]] = {}
    problems = []
    for name, (width, height) in sizes.items():
        found = (buckets.bucket_of(rule, width, height) for rule in rules)
        placed[name] = tuple(dict.fromkeys(bucket for bucket in found if bucket))
        if not placed[name]:
            del placed[name]
            shortest = min(rule.shortest for rule in rules)
            what = f"is too small: {width}×{height} pixels, and each side must be at least {shortest}"
            hint = "use larger pictures, a lower resolution, or Images(upscale=True), which enlarges them"
            problems.append(Problem(folder.shown(name), what, hint))
    return placed, problems


def _twins(folder: Folder, hashes: Mapping[str, str]) -> dict[str, Problem]:
    """Pictures whose file is, byte for byte, another's: all but the first by name."""
    first: dict[str, str] = {}
    twins = {}
    for name, sha256 in hashes.items():
        if sha256 in first:
            what = f"is the same file as {folder.shown(first[sha256])}"
            twins[name] = Problem(
                folder.shown(name), what, "remove it; to see a picture more often, set repeats"
            )
        first.setdefault(sha256, name)
    return twins


def _notes_on_settings(
    images: Images, every: tuple[plan.Item, ...], items: tuple[plan.Item, ...]
) -> Iterator[str]:
    """The same of what a spec asks for; `every` holds the prior pictures that are too many, too."""
    names = {item.path for item in items}
    learnt = {name for name in names if not is_prior(images, name)}
    sides, samples = len(buckets.resolutions(images)), Counter(item.path for item in items)
    fewer = sum(samples[name] < sides for name in names)
    if fewer:
        yield f"{fewer:,} of {len(names):,} pictures are too small for all resolutions, and seen at fewer"
    if names - learnt:
        yield f"{len(names - learnt):,} prior pictures, as many samples of them as of the {len(learnt):,} others"
    if unused := len({item.path for item in every} - names):
        yield f"{unused:,} prior pictures are not used: there are more of them than samples of the others"
    if images.random_crop or images.random_zoom:
        tight = sum(not _has_room(images, item) for item in items)
        if tight:
            yield f"{tight:,} of {len(items):,} items have no room for random crops: they are as their bucket is"
    if images.mask_path is not None and (plain := sum(not item.mask for item in items)):
        yield f"{plain:,} of {len(items):,} items have no mask, and count whole"


def _has_room(images: Images, item: plan.Item) -> bool:
    """Whether random crops can be other ones than the crop at the centre."""
    is_larger = item.width > item.bucket[0] and item.height > item.bucket[1]
    is_cut = buckets.kept(item.bucket, item.width, item.height) < 1
    return (images.random_crop and is_cut) or (images.random_zoom > 0 and is_larger)


def _few(held: tuple[plan.Item, ...]) -> tuple[str, ...]:
    """Whether so little is held out that what is decided by it may be chance."""
    said = f"only {len(held)} pictures are held out: which checkpoint is best rests on them"
    return (said,) if 0 < len(held) < FEW_HELD_OUT else ()


def _notes(items: tuple[plan.Item, ...]) -> Iterator[str]:
    """What is no error, but nobody should be surprised by later."""
    for (folder, count), number in Counter(
        (item.path.partition("/")[0], repeats_of(item.path)[0]) for item in items
    ).items():
        if count > 1:
            yield f"{folder}: {number:,} pictures × {count} repeats"
    for text, number in (
        ("are enlarged", sum(buckets.is_enlarged(i.bucket, i.width, i.height) for i in items)),
        (
            "lose more than a third to the crop",
            sum(buckets.kept(i.bucket, i.width, i.height) < 1 - CROPPED for i in items),
        ),
        ("have no caption", sum(not item.caption for item in items)),
    ):
        if number:
            yield f"{number:,} of {len(items):,} pictures {text}"
