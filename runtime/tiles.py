"""Pictures that come out of the autoencoder in overlapping tiles, their seams blended, as diffusers does it.

A decoder's fullest moment is its last layers at the picture's full size. In tiles it holds one of them: with all of
SDXL on the card, drawing 1024 pixels is traced at 15.5 GiB whole and 11.5 in tiles. Only what is drawn is decoded:
training never is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runtime import plan
from runtime.families.protocol import Family, Modules

SIDE = 512
"""Pixels of a tile's sides: what the autoencoders of the families here were trained on at least, or nearly so."""
OVERLAP = 128
"""Pixels that neighbours share: a quarter, as in diffusers' `AutoencoderKL`."""


@contextmanager
def decoding(of: Family, modules: Modules, samples: plan.Samples) -> Iterator[None]:
    """Have the autoencoder decode as the samples say. It encodes in tiles too meanwhile."""
    if not samples.tiled:
        yield
        return
    vae = modules[of.VAE]
    if hasattr(vae, "tile_latent_min_size"):
        vae.tile_sample_min_size = SIDE
        vae.tile_latent_min_size = SIDE // 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_overlap_factor = OVERLAP / SIDE
        vae.enable_tiling()
    else:
        vae.enable_tiling(SIDE, SIDE, SIDE - OVERLAP, SIDE - OVERLAP)
    try:
        yield
    finally:
        vae.disable_tiling()
