"""Make the embedded base: `python specs/emoji/make_base.py --google DIR --twitter DIR --out DIR --work DIR`.

A stage that was stopped goes on where it was when it's called again.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from captions import Vocabulary
from diffusers import AutoencoderKL
from export import export
from latents import SCALING_FACTOR, encode, rescale
from make_data import choose
from pictures import Concept, read_concepts, read_pixels
from safetensors.torch import load_file, save_file
from tokenizer import load_tokenizer, write_tokenizer
from train_unet import train_unet
from train_vae import train_vae

STAGES = ("vae", "unet", "export")
# Concepts that the base sees more often than others, in two parts a subject: things and faces, where both sets draw the
# same motif.
EMPHASIS = {
    "face": (20, 14),
    "animal": (20, 14),
    "bird": (5, 4),
    "insect": (3, 3),
    "plant": (6, 5),
    "fruit": (6, 6),
    "vegetable": (5, 4),
    "food": (12, 10),
    "drink": (3, 3),
    "object": (8, 6),
    "sport": (3, 2),
    "vehicle": (5, 4),
    "heart": (3, 2),
    "clothing": (3, 3),
}

FOLDER = click.Path(path_type=Path)


def _vae_stage(google: Path, twitter: Path, work: Path, minutes: float) -> None:
    files = [concept.file for concept in read_concepts(google)]
    train_vae(np.concatenate([read_pixels(google, files), read_pixels(twitter, files)]), work, minutes)


def _write_latents(google: Path, concepts: list[Concept], work: Path) -> None:
    """Rescale the autoencoder once and keep every picture's scaled latent, plain and mirrored."""
    pixels = read_pixels(google, [concept.file for concept in concepts])
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    rescale(vae, encode(vae, pixels))
    both = {"plain": encode(vae, pixels), "flipped": encode(vae, pixels[:, :, ::-1].copy())}
    both = {name: (latents * SCALING_FACTOR).contiguous() for name, latents in both.items()}
    vae.save_pretrained(work / "vae-rescaled")
    print(f"latents: mean {both['plain'].mean():.3f}, std {both['plain'].std():.3f}", flush=True)
    save_file(both, work / "latents.safetensors")


def _unet_stage(google: Path, twitter: Path, work: Path, minutes: float) -> None:
    concepts = read_concepts(google)
    if not (work / "latents.safetensors").exists():
        _write_latents(google, concepts, work)
    cached = load_file(work / "latents.safetensors")
    vae = AutoencoderKL.from_pretrained(work / "vae-rescaled").eval().requires_grad_(False)
    train, heldout = choose(google, twitter, EMPHASIS)
    demo = {concept.file for concept in train + heldout}
    vocabulary = _vocabulary(concepts, work)
    train_unet(concepts, demo, cached["plain"], cached["flipped"], vocabulary, vae, work, minutes)


def _vocabulary(concepts: list[Concept], work: Path) -> Vocabulary:
    write_tokenizer(work / "tokenizer")
    return Vocabulary(load_tokenizer(work / "tokenizer"), concepts)


@click.command()
@click.option("--google", type=FOLDER, required=True, help="The npm package emoji-datasource-google.")
@click.option("--twitter", type=FOLDER, required=True, help="The npm package emoji-datasource-twitter.")
@click.option("--work", type=FOLDER, required=True, help="Where the training state is kept.")
@click.option("--out", type=FOLDER, required=True, help="Where the finished base goes.")
@click.option(
    "--stage", "stages", type=click.Choice(STAGES), multiple=True, default=STAGES, show_default=True
)
@click.option("--vae-minutes", default=31.0, show_default=True)
@click.option("--unet-minutes", default=56.0, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    google: Path,
    twitter: Path,
    work: Path,
    out: Path,
    stages: tuple[str, ...],
    vae_minutes: float,
    unet_minutes: float,
    threads: int,
) -> None:
    """Train the emoji base from the two npm packages and write it as a diffusers folder."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    if "vae" in stages:
        _vae_stage(google, twitter, work, vae_minutes)
    if "unet" in stages:
        _unet_stage(google, twitter, work, unet_minutes)
    if "export" in stages:
        export(work, out, _vocabulary(read_concepts(google), work))


if __name__ == "__main__":
    main()
