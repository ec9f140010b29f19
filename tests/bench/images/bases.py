"""SD 1.5's own models with random weights, and pictures of noise to train them on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from runtime.families import clip_vocabulary, sd1, unet
from runtime.safeio.atomic import making_folder

PICTURES = 8


def sd15(base: Path, pictures: Path) -> None:
    """Write both, where they are missing: UNet, autoencoder and text encoder at full size in fp16, 2 GB."""
    if not base.exists():
        with making_folder(base) as folder:
            tokenizers = {"tokenizer": clip_vocabulary.tokenizer()}
            unet.write_folder(folder, sd1.published(), sd1.build, tokenizers, sd1.INDEX)
    if not pictures.exists():
        with making_folder(pictures) as folder:
            write_noise(folder)


def write_noise(folder: Path) -> None:
    """Pictures of 256 × 256 with captions in metadata.csv."""
    draw = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(PICTURES)]
    for name in names:
        Image.fromarray(draw.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(folder / name)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "prompt"])
        table.writerows([name, f"noise, number {name.removesuffix('.png')}"] for name in names)
