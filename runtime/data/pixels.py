"""A locked picture as the autoencoder takes it: resized and cropped to its bucket in one resampling, then coloured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from runtime import plan
from runtime.data.views import PLAIN, View
from runtime.safeio import images, paths


def read(root: Path, item: plan.Item, view: View = PLAIN) -> Tensor:
    """The picture (3, height, width) of its bucket, float32 in [-1, 1]; a clip has its frames in front. Raises
    InputError."""
    if item.clip:
        return torch.stack([seen(one, item.bucket, view) for one in frames(root, item.clip)])
    return seen(images.open_picture(paths.inside(root, item.path)), item.bucket, view)


def seen(picture: Image.Image, bucket: tuple[int, int], view: View) -> Tensor:
    """A view of a picture as a tensor."""
    return tensor(coloured(fitted(picture, bucket, view), view), view.flip)


def frames(root: Path, clip: plan.Clip) -> list[Image.Image]:
    """A clip's pictures, in their order. Raises InputError."""
    files = [paths.inside(root, frame.path) for frame in clip.frames]
    if len(set(files)) == 1:
        return images.open_frames(files[0], len(files))
    return [images.open_picture(file) for file in files]


def read_mask(
    root: Path, item: plan.Item, mask: plan.Mask, size: tuple[int, int], view: View = PLAIN
) -> Tensor:
    """How much each place of an item's latents counts: float32 (1, h, w) in [0, 1], with `size` = (h, w).

    Cropped as the view is, not mirrored, then the mean over each latent's pixels. Where there is no mask, all counts.
    Raises InputError.
    """
    if mask == "alpha":
        grey = images.open_alpha(paths.inside(root, item.path))
    elif item.mask:
        grey = images.open_picture(paths.inside(root, item.mask)).convert("L")
    else:
        return torch.ones(1, *size)
    part = torch.from_numpy(np.array(fitted(grey, item.bucket, view), dtype=np.uint8)).to(torch.float32) / 255
    return F.adaptive_avg_pool2d(part[None], size)


def fitted(picture: Image.Image, bucket: tuple[int, int], view: View = PLAIN) -> Image.Image:
    """The part of a picture that a view sees, at the bucket's size (width, height): for a plain view the largest part
    of the bucket's ratio, at the centre.

    One pass, from exact edges: Lanczos where it shrinks, bicubic where it grows, which rings less.
    """
    scale, (across, down) = _room(picture.size, bucket, view)
    box = (
        across * view.left,
        down * view.top,
        picture.width - across * (1 - view.left),
        picture.height - down * (1 - view.top),
    )
    method = Image.Resampling.LANCZOS if scale > 1 else Image.Resampling.BICUBIC
    return picture.resize(bucket, method, box=box)


def corner(item: plan.Item, view: View = PLAIN) -> tuple[int, int]:
    """How many pixels lie above and left of what is seen, of the picture as it was resized, and mirrored, for it."""
    (width, height), (scale, _) = item.bucket, _room((item.width, item.height), item.bucket, view)
    left = 1 - view.left if view.flip else view.left
    return round((item.height / scale - height) * view.top), round((item.width / scale - width) * left)


def _room(size: tuple[int, int], bucket: tuple[int, int], view: View) -> tuple[float, tuple[float, float]]:
    """How many of a picture's pixels, across, make one of the bucket's; and how many pixels across and down the crop
    leaves over. A zoom never enlarges: the crop has the bucket's pixels at least, or all that there are."""
    whole = min(size[0] / bucket[0], size[1] / bucket[1])
    scale = max(whole * (1 - view.zoom), min(whole, 1.0))
    # Not below 0: 75 pixels are less than 584 times their 584th part.
    return scale, (max(0.0, size[0] - bucket[0] * scale), max(0.0, size[1] - bucket[1] * scale))


def coloured(picture: Image.Image, view: View) -> Image.Image:
    """An RGB picture in the colours of a view (torchvision's `ColorJitter`, in this order)."""
    for change, value, off in (
        (functional.adjust_brightness, view.brightness, 1.0),
        (functional.adjust_contrast, view.contrast, 1.0),
        (functional.adjust_saturation, view.saturation, 1.0),
        (functional.adjust_hue, view.hue, 0.0),
    ):
        picture = change(picture, value) if value != off else picture
    return picture


def tensor(picture: Image.Image, flip: bool) -> Tensor:
    """RGB bytes as a tensor; `flip` mirrors it left to right."""
    array = np.array(picture, dtype=np.uint8)
    pixels = torch.from_numpy(array).permute(2, 0, 1).to(torch.float32) / 127.5 - 1.0
    return pixels.flip(-1) if flip else pixels
