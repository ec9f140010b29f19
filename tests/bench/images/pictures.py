"""Pictures and captions as diffusers' recipe reads them: by torchvision's transforms."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional


def captions(folder: Path) -> dict[str, str]:
    """File names of a folder's metadata.csv with their captions."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return {row["image"]: row["prompt"] for row in csv.DictReader(file)}


def pixels(path: Path, resolution: int, flip: bool) -> Tensor:
    """A picture as (3, resolution, resolution) in [-1, 1], its middle."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    square = transforms.Compose(
        [
            transforms.Resize(resolution, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(resolution),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )(picture)
    return functional.hflip(square) if flip else square
