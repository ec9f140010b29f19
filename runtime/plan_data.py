"""The data of a plan: locked pictures or locked text. A part of `runtime.plan`, which is where others find it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

Mask = Literal["none", "alpha", "files"]


@attrs.frozen(kw_only=True)
class Frame:
    """One picture of a clip: POSIX path in the data folder, sha256 of the file, its number in an animation, 0 of one
    that stands still."""

    path: str
    sha256: str
    number: int


@attrs.frozen(kw_only=True)
class Clip:
    """Frames in their order, `fps` a second. `motion` is how much moves, 1 to 255 (SVD's motion_bucket_id)."""

    frames: tuple[Frame, ...]
    fps: int
    motion: int


@attrs.frozen(kw_only=True)
class Item:
    """One picture at one size: POSIX path in the data folder, the file's sha256, pixels as shown (EXIF applied).

    Or one clip: the path of its folder or animation, a sha256 over its frames. `mask` is the path of a picture's mask,
    in the data folder too; empty where it has none. `loss_weight` is what its loss is multiplied by.
    """

    path: str
    sha256: str
    width: int
    height: int
    caption: str
    repeats: int
    bucket: tuple[int, int]
    clip: Clip | None = None
    mask: str = ""
    mask_sha256: str = ""
    loss_weight: float = 1.0


@attrs.frozen(kw_only=True)
class Augment:
    """Each picture has `variants` views, which its samples draw from: cropped at random places with `random_crop`, with
    up to `random_zoom` of each side cut away; brightness, contrast and saturation moved by up to `color_jitter` of what
    they are, the hue by up to `hue_jitter` of the circle.
    """

    variants: int
    random_crop: bool
    random_zoom: float
    color_jitter: float
    hue_jitter: float

    @property
    def varies_crops(self) -> bool:
        """Whether views of a picture differ in what is cropped."""
        return self.random_crop or self.random_zoom > 0


@attrs.frozen(kw_only=True)
class Images:
    """The locked picture set. `digest` covers the items; `expected` counts an epoch's samples.

    Each item of "clips" has `frames` frames. `mask` says where masks come from: each item's file, or its picture's own
    alpha; what is black in a mask counts `unmasked_weight`. Each caption has `caption_variants` wordings (1 is off):
    its tags after the first `keep_tags` in another order with `shuffle_tags`, each left out with a chance of
    `tag_dropout`.

    `held_out` is the share of pictures that is measured on and never trained on, 0 is none; `held_items` are these.
    `augment` says how pictures are varied; None is not at all.
    """

    kind: Literal["images", "clips"] = "images"
    digest: str
    items: tuple[Item, ...]
    expected: int
    resolution: int
    flip: bool
    caption_dropout: float
    frames: int = 1
    mask: Mask = "none"
    unmasked_weight: float = 0.0
    caption_variants: int = 1
    shuffle_tags: bool = False
    keep_tags: int = 0
    tag_dropout: float = 0.0
    held_out: float = 0.0
    held_items: tuple[Item, ...] = ()
    augment: Augment | None = None


@attrs.frozen(kw_only=True)
class TextFile:
    """One file of a text set: POSIX path in the data folder, sha256 of the file.

    `shape` is how its rows are read (`runtime.data.shapes`), `columns` what it calls the shape's columns, `weight`
    how often an epoch visits each sample. `samples` are read, `trained` of them trained on; the rest is held out or
    cut to nothing. Of the file's rows the first `max_samples` are read, with 0 all.
    """

    path: str
    sha256: str
    shape: str
    columns: dict[str, str]
    weight: float
    samples: int
    trained: int
    max_samples: int = 0


@attrs.frozen(kw_only=True)
class Texts:
    """The locked text set: what is trained on is a sequence of at most `length` tokens.

    `digest` covers what the samples say, in their order; `expected` counts an epoch's sequences. `template` is the
    chat template's source, empty for plain text. Packed sequences hold several samples each. `held_out` is the share
    of samples that is measured on and never trained on; 0 is none.
    """

    kind: Literal["text"] = "text"
    digest: str
    files: tuple[TextFile, ...]
    expected: int
    length: int
    packing: bool
    template: str
    held_out: float


Data = Images | Texts


def pictures(data: Data) -> Images:
    """The data of a program that learns from pictures."""
    if not isinstance(data, Images):
        raise TypeError(f"these are {data.kind}, not pictures")
    return data


def every_item(data: Images) -> tuple[Item, ...]:
    """Pictures that are trained on, and after them those that are held out."""
    return data.items + data.held_items


Shape = tuple[int, ...]
"""What sets a sample's cost: (width, height) of a picture's bucket in pixels, (width, height, frames) of a clip's, or
(tokens,) of a sequence."""


def largest(data: Data) -> Shape:
    """The shape that sets the peak: the bucket with the most pixels, or a full sequence."""
    if isinstance(data, Texts):
        return (data.length,)
    buckets = {item.bucket for item in every_item(data)} or {(data.resolution, data.resolution)}
    return shape(data, max(buckets, key=lambda bucket: (bucket[0] * bucket[1], bucket)))


def shape(data: Images, size: tuple[int, int]) -> Shape:
    """The shape of a sample of this size (width, height)."""
    return size if data.kind == "images" else (*size, data.frames)


def pixels(shape: Shape) -> tuple[int, ...]:
    """A sample's pixels: (3, height, width), or (frames, 3, height, width)."""
    width, height, *frames = shape
    return (*frames, 3, height, width)


def locked_files(data: Data) -> dict[str, str]:
    """Every file of the data by its path in the data folder, with its sha256."""
    return dict(each_file(data))


def each_file(data: Data) -> Iterator[tuple[str, str]]:
    """The same one by one: a file that several items are of comes several times."""
    if isinstance(data, Texts):
        yield from ((file.path, file.sha256) for file in data.files)
        return
    for item in every_item(data):
        yield from ((one.path, one.sha256) for one in (item.clip.frames if item.clip else (item,)))
    yield from ((item.mask, item.mask_sha256) for item in every_item(data) if item.mask)


def samples(data: Data) -> int:
    """Pictures, or conversations and texts, that are trained on."""
    if isinstance(data, Images):
        return len({item.path for item in data.items})
    return sum(file.trained for file in data.files)


def picture_variants(data: Images) -> int:
    """Views of each picture, mirrored ones apart."""
    return data.augment.variants if data.augment else 1


def are_weighted(data: Images) -> bool:
    """Whether some pictures count otherwise than others."""
    return any(item.loss_weight != 1 for item in data.items)


# --------------------------------------------------------------------------------------------------------- checking


def wrong_data(data: Data) -> list[str]:
    """What data of the right shape still may not say."""
    found = [
        f"data's {path!r} must stay inside the data folder"
        for path, _ in each_file(data)
        if not is_inner(path)
    ]
    if not 0 <= data.held_out < 1:
        found.append(f"data.held_out must be at least 0 and below 1, got {data.held_out}")
    return found + (_wrong_pictures(data) if isinstance(data, Images) else _wrong_texts(data))


def _wrong_pictures(data: Images) -> list[str]:
    found = [
        f"data.{field}[{index}] has a repeats, size, bucket or loss_weight out of range"
        for field, items in (("items", data.items), ("held_items", data.held_items))
        for index, item in enumerate(items)
        if item.repeats < 1
        or min(item.bucket) < 8
        or min(item.width, item.height) < 1
        or item.loss_weight < 0
    ] + [
        f"data.items[{index}] must be a clip of {data.frames} frames"
        for index, item in enumerate(data.items)
        if (item.clip is not None) != (data.kind == "clips")
        or (item.clip is not None and len(item.clip.frames) != data.frames)
    ]
    if data.mask != "files" and any(item.mask for item in data.items):
        found.append(f"data.mask is {data.mask!r}, but items have mask files")
    for name, value in (("unmasked_weight", data.unmasked_weight), ("tag_dropout", data.tag_dropout)):
        if not 0 <= value < 1:
            found.append(f"data.{name} must be at least 0 and below 1, got {value}")
    if data.caption_variants < 1 or data.keep_tags < 0:
        found.append("data.caption_variants must be at least 1, and data.keep_tags at least 0")
    if data.augment is not None:
        found += _wrong_augment(data.augment)
    held = {item.sha256 for item in data.held_items}
    both = {item.sha256 for item in data.items if item.sha256 in held}
    return found + [f"data.held_items has {len(both)} pictures that are trained on"] * bool(both)


def _wrong_augment(of: Augment) -> list[str]:
    highest = {"random_zoom": 0.5, "color_jitter": 1.0, "hue_jitter": 0.5}
    found = [
        f"data.augment.{name} must be between 0 and {most}, got {getattr(of, name)}"
        for name, most in highest.items()
        if not 0 <= getattr(of, name) <= most
    ]
    return found + ["data.augment.variants must be at least 2"] * (of.variants < 2)


def _wrong_texts(data: Texts) -> list[str]:
    found = [f"data.length must be at least 2, got {data.length}"] if data.length < 2 else []
    return (
        found
        + [
            f"data.files[{index}].weight must be above 0, got {file.weight}"
            for index, file in enumerate(data.files)
            if not file.weight > 0
        ]
        + [
            f"data.files[{index}].max_samples must be at least 0, got {file.max_samples}"
            for index, file in enumerate(data.files)
            if file.max_samples < 0
        ]
    )


def is_inner(path: str) -> bool:
    """Whether a POSIX path is relative, without `..`, a drive or a backslash."""
    parts = path.split("/")
    return (
        bool(path)
        and not path.startswith("/")
        and not {"..", ".", ""} & set(parts)
        and not {"\\", "\0", ":"} & set(path)
    )
