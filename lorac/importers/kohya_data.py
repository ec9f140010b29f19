"""sd-scripts' dataset TOML: one set of pictures is carried, the others are told.

A key of a subset overrules the data set's, and that the general one (docs/config_README-en.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import words
from lorac.importers.kohya_keys import KEYS, settle_hanging
from lorac.importers.ledger import Cannot, Ledger, Path, To, Unless, bare, is_on
from lorac.importers.words import set_side

OVERRULED = {
    *("train_data_dir", "reg_data_dir", "in_json"),
    *(
        "resolution",
        "train_batch_size",
        "enable_bucket",
        "min_bucket_reso",
        "max_bucket_reso",
        "bucket_reso_steps",
    ),
    *("bucket_no_upscale", "caption_extension", "caption_dropout_rate", "caption_dropout_every_n_epochs"),
    *(
        "caption_tag_dropout_rate",
        "color_aug",
        "flip_aug",
        "random_crop",
        "face_crop_aug_range",
        "keep_tokens",
    ),
    *("shuffle_caption", "dataset_repeats"),
}
"""Keys of the training that a dataset TOML takes the place of."""

DATA = {
    **KEYS,
    "image_dir": To("data.path"),
    "batch_size": To("train.effective_batch"),
    "num_repeats": To("data.repeats"),
    "class_tokens": Unless(
        "kohya's captions of pictures that have none; write them, or name the folder 10_NAME"
    ),
    "is_reg": Unless(words.PRIOR),
    "metadata_file": Unless("lorac reads metadata.csv or metadata.jsonl (file_name, text); convert it"),
}

ANOTHER = Cannot(
    "another set: lorac takes one folder. Put the sets in one, as subfolders 10_NAME (10: the repeats)"
)

SAME = Cannot("the same pictures once more, at another size: lorac trains a set at one resolution")


def recognise(config: Any) -> bool:
    """Whether this is a dataset TOML: data sets with subsets."""
    if not isinstance(config, Mapping) or not set(config) <= {"general", "datasets"}:
        return False
    sets = config.get("datasets")
    return isinstance(sets, list) and any(isinstance(one, Mapping) and "subsets" in one for one in sets)


def settle(book: Ledger, config: Mapping[str, Any], prefix: Path) -> None:
    """Settle every key of a dataset TOML whose entries are below `prefix`."""
    chosen = _first(config)
    levels = [
        (*prefix, "datasets", chosen[0], "subsets", chosen[1]),
        (*prefix, "datasets", chosen[0]),
        (*prefix, "general"),
    ]
    mine: dict[str, Path] = {}
    own = [path for path in book.entries if path[: len(prefix)] == prefix and len(path) > len(prefix)]
    for level in levels:
        for path in own:
            if path[:-1] != level:
                continue
            if bare(path) in mine:
                book.ours(
                    path,
                    f"{'a subset' if mine[bare(path)][:-1] == levels[0] else 'the data set'} overrules it",
                )
            else:
                mine[bare(path)] = path
    shown = _pictures(config, ("datasets", chosen[0], "subsets", chosen[1]))
    for path in own:
        if path not in mine.values() and path in set(book.open()):
            book.apply(path, SAME if _pictures(config, path[len(prefix) :]) == shown else ANOTHER)
    settle_hanging(book)
    open_ = set(book.open())
    for name, path in mine.items():
        if path not in open_:
            continue
        if name == "resolution":
            set_side(book, path)
        elif name in DATA:
            book.apply(path, DATA[name])
    no_upscale = mine.get("bucket_no_upscale")
    assume(book, no_upscale is not None and is_on(book.entries[no_upscale]))


def assume(book: Ledger, no_upscale: bool) -> None:
    """What sd-scripts takes where a config is silent of its data."""
    book.assume("data.caption_extension", ".caption", "kohya's default of caption_extension")
    book.assume("data.buckets", False, "kohya's default of enable_bucket")
    if not no_upscale:
        book.assume("data.upscale", True, "as kohya does where bucket_no_upscale is not set")


def _first(config: Mapping[str, Any]) -> tuple[int, int]:
    """The first subset that is to be learnt from."""
    for at, dataset in enumerate(config["datasets"]):
        for place, subset in enumerate(dataset.get("subsets") or [] if isinstance(dataset, Mapping) else []):
            if isinstance(subset, Mapping) and not is_on(subset.get("is_reg")):
                return at, place
    return 0, 0


def _pictures(config: Mapping[str, Any], path: Path) -> set[str]:
    """The folders of the data set that a path is in, or of the one subset."""
    subsets = (
        config["datasets"][path[1]].get("subsets") if len(path) > 1 and isinstance(path[1], int) else None
    )
    subsets = (
        subsets[path[3] : path[3] + 1] if subsets and len(path) > 3 and isinstance(path[3], int) else subsets
    )
    return {str(one.get("image_dir")) for one in subsets or [] if isinstance(one, Mapping)}
