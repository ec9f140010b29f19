"""A picture in tiles is as large as a whole one, and the autoencoder never decodes more than a tile of it at once."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import Tensor, nn

from runtime import tiles
from runtime.families import FAMILIES, family
from runtime.families.inspect import inspect
from runtime.families.protocol import Family
from runtime.safeio.digest import sha256_file
from tests.lorac.plans import OUTPUTS

SIDE = 640


@attrs.frozen
class Decoder:
    """A family's tiny autoencoder, and a picture's latents."""

    of: Family
    vae: nn.Module
    latents: Tensor

    def picture(self, tiled: bool) -> tuple[Tensor, int]:
        """The picture, and the most pixels that the decoder gave at once."""
        samples, most = attrs.evolve(OUTPUTS.samples, tiled=tiled), []
        decoder = self.vae.get_submodule("decoder")
        counting = decoder.register_forward_hook(lambda _, __, out: most.append(out[0, 0].numel()))
        with torch.no_grad(), tiles.decoding(self.of, {self.of.VAE: self.vae}, samples):
            made = self.of.decode({self.of.VAE: self.vae}, self.latents)
        counting.remove()
        return made, max(most)


@pytest.fixture(scope="module", params=["sd1", "flux1", "qwen_image"])
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    of = family(request.param)
    folder = of.tiny(tmp_path_factory.mktemp("tiles") / of.NAME)
    base = inspect(folder, sha256_file, "auto").base
    vae = of.load(folder, base, of.VAE, torch.float32).eval()
    shape = of.example(base.architecture, 1, (SIDE, 64), False)["latent_mean"].shape
    return Decoder(of, vae, torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def test_no_more_than_a_tile_is_decoded_at_once(one: Decoder) -> None:
    whole, all_of_it = one.picture(tiled=False)
    tiled, part = one.picture(tiled=True)

    assert tiled.shape == whole.shape == (1, 3, 64, SIDE)
    assert (all_of_it, part) == (64 * SIDE, 64 * tiles.SIDE)
    # A tile's own attention, mean and deviation differ, and the seam; so much the more where weights are random.
    assert torch.corrcoef(torch.stack([tiled.flatten(), whole.flatten()]))[0, 1] > 0.9


def test_a_picture_after_that_is_whole_again(one: Decoder) -> None:
    before = one.picture(tiled=False)[0]
    one.picture(tiled=True)

    assert one.picture(tiled=False)[0].equal(before)


def test_all_that_draw_pictures_can_but_clips() -> None:
    unable = []
    for of in map(family, FAMILIES):
        with torch.device("meta"):
            if of.KIND != "text" and not hasattr(of.build(of.published(), of.VAE), "use_tiling"):
                unable.append(of.NAME)

    assert unable == ["svd"]
