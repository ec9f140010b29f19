"""A locked picture as the autoencoder takes it: resized and cropped to its bucket in one resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from runtime import plan
from runtime.safeio import images, paths


def read(root: Path, item: plan.Item, flip: bool) -> Tensor:
    """The picture (3, height, width) of its bucket, float32 in [-1, 1]; a clip has its frames in front. Raises
    InputError."""
    if item.clip:
        return torch.stack([tensor(fitted(one, item.bucket), flip) for one in frames(root, item.clip)])
    return tensor(fitted(images.open_picture(paths.inside(root, item.path)), item.bucket), flip)


def frames(root: Path, clip: plan.Clip) -> list[Image.Image]:
    """A clip's pictures, in their order. Raises InputError."""
    files = [paths.inside(root, frame.path) for frame in clip.frames]
    if len(set(files)) == 1:
        return images.open_frames(files[0], len(files))
    return [images.open_picture(file) for file in files]


def read_mask(root: Path, item: plan.Item, mask: plan.Mask, size: tuple[int, int]) -> Tensor:
    """How much each place of an item's latents counts: float32 (1, h, w) in [0, 1], with `size` = (h, w).

    Cropped as the picture is, then the mean over each latent's pixels. Where there is no mask, all counts. Raises
    InputError.
    """
    if mask == "alpha":
        grey = images.open_alpha(paths.inside(root, item.path))
    elif item.mask:
        grey = images.open_picture(paths.inside(root, item.mask)).convert("L")
    else:
        return torch.ones(1, *size)
    seen = torch.from_numpy(np.array(fitted(grey, item.bucket), dtype=np.uint8)).to(torch.float32) / 255
    return F.adaptive_avg_pool2d(seen[None], size)


def fitted(picture: Image.Image, bucket: tuple[int, int]) -> Image.Image:
    """The largest central part of the bucket's ratio, at the bucket's size (width, height).

    One pass, from exact edges: Lanczos where it shrinks, bicubic where it grows, which rings less.
    """
    width, height = bucket
    scale = min(picture.width / width, picture.height / height)
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    box = (left, top, picture.width - left, picture.height - top)
    method = Image.Resampling.LANCZOS if scale > 1 else Image.Resampling.BICUBIC
    return picture.resize(bucket, method, box=box)


def tensor(picture: Image.Image, flip: bool) -> Tensor:
    """RGB bytes as a tensor; `flip` mirrors it left to right."""
    array = np.array(picture, dtype=np.uint8)
    pixels = torch.from_numpy(array).permute(2, 0, 1).to(torch.float32) / 127.5 - 1.0
    return pixels.flip(-1) if flip else pixels
