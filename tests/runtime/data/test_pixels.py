"""Pictures as tensors: centred, whole where they fit, sharp, mirrored exactly."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from runtime import plan
from runtime.data import pixels
from runtime.data.views import View
from runtime.errors import InputError


def item(path: str, bucket: tuple[int, int]) -> plan.Item:
    return plan.Item(path=path, sha256="", width=1, height=1, caption="", repeats=1, bucket=bucket)


def gradient(width: int, height: int) -> Image.Image:
    """Red rises from left to right, green from top to bottom."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, red * 0], axis=-1).round().astype(np.uint8))


def test_a_picture_of_the_buckets_size_is_kept_to_the_bit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")

    found = pixels.read(tmp_path, item("a.png", (48, 32)))
    assert found.shape == (3, 32, 48)
    assert found.dtype == torch.float32
    assert torch.equal(
        ((found + 1) * 127.5).round().to(torch.uint8), torch.from_numpy(noise).permute(2, 0, 1)
    )


def test_black_and_white_are_the_ends_of_the_range():
    assert pixels.tensor(Image.new("RGB", (8, 8), "black"), flip=False).unique().tolist() == [-1.0]
    assert pixels.tensor(Image.new("RGB", (8, 8), "white"), flip=False).unique().tolist() == [1.0]


def test_a_flip_mirrors_exactly():
    picture = gradient(40, 24)

    assert torch.equal(pixels.tensor(picture, flip=True), pixels.tensor(picture, flip=False).flip(-1))
    assert not torch.equal(pixels.tensor(picture, flip=True), pixels.tensor(picture, flip=False))


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (201, 67), (64, 64), (20, 90)])
def test_the_middle_is_cut_out_as_large_as_it_goes(size):
    bucket = (64, 64)
    found = pixels.tensor(pixels.fitted(gradient(*size), bucket), flip=False)

    side = min(size)
    for axis, length, line in ((0, size[0], found[0, 32, :]), (1, size[1], found[1, :, 32])):
        first, last = (length - side) / 2 / length, (length + side) / 2 / length
        middle = line[8:-8].numpy() / 2 + 0.5  # the resampling bends a ramp near its ends
        want = np.linspace(first, last, 129)[1::2][8:-8]
        assert np.abs(middle - want).max() < 0.02, axis


def test_shrinking_averages_fine_patterns():
    checks = Image.fromarray((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    found = pixels.tensor(pixels.fitted(checks, (64, 64)), flip=False)

    assert found.abs().max() < 0.02


@pytest.mark.parametrize("left", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("zoom", [0.0, 0.5])
def test_a_view_crops_where_it_says(left, zoom):
    found = np.asarray(pixels.fitted(gradient(300, 100), (50, 50), View(left=left, zoom=zoom)))[25, :, 0]

    width = 100 * (1 - zoom)
    first = (300 - width) * left
    want = 255 * np.linspace(first, first + width, 101)[1::2] / 300
    assert np.abs(found[8:-8] - want[8:-8]).max() < 3


@pytest.mark.parametrize("size", [(64, 64), (48, 48)])
def test_a_zoom_enlarges_nothing(size):
    picture = gradient(*size)

    assert pixels.fitted(picture, (64, 64), View(zoom=0.5)) == pixels.fitted(picture, (64, 64))


def test_sizes_that_do_not_divide_leave_nothing_over_at_the_edges():
    """75 / 584 · 584 is less than 75 by a rounding, and more than that by another."""
    assert pixels.fitted(gradient(75, 4000), (584, 512)).size == (584, 512)


def test_colours_move_and_grey_stays_grey():
    picture = gradient(32, 32)
    grey = picture.convert("L").convert("RGB")
    hue = View(hue=1 / 3)

    red, green, _ = np.asarray(pixels.coloured(Image.new("RGB", (8, 8), "red"), hue))[0, 0]
    assert (red < 10) and (green > 245)
    assert pixels.coloured(grey, attrs.evolve(hue, saturation=0.5)) == grey
    assert np.asarray(pixels.coloured(picture, View(brightness=0.5))).max() == 127
    assert pixels.coloured(picture, View(left=0.1, zoom=0.3)) == picture


@pytest.mark.parametrize("mask", ["alpha", "files"])
def test_a_mask_is_cropped_as_its_picture_is_and_averaged_over_each_latent(tmp_path, mask):
    grey = np.zeros((16, 32), dtype=np.uint8)
    grey[:, 8:16] = 255  # the left half of what the crop leaves
    grey[8:, 8:12] = 51
    layers = np.dstack([np.zeros((16, 32, 3), dtype=np.uint8), grey])
    Image.fromarray(layers).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "mask.png")
    of = attrs.evolve(item("a.png", (16, 16)), mask="mask.png" if mask == "files" else "")

    found = pixels.read_mask(tmp_path, of, mask, (2, 2))
    assert torch.allclose(found, torch.tensor([[[1.0, 0.0], [0.6, 0.0]]]))


def test_without_a_mask_everything_counts(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")

    for mask in ("alpha", "files"):
        assert pixels.read_mask(tmp_path, item("a.png", (16, 16)), mask, (2, 4)).equal(torch.ones(1, 2, 4))


def test_a_picture_that_is_gone_is_told(tmp_path):
    with pytest.raises(InputError) as caught:
        pixels.read(tmp_path, item("a.png", (8, 8)))

    assert caught.value.problems[0].what == "does not exist"


def test_a_path_out_of_the_folder_is_refused(tmp_path):
    with pytest.raises(InputError):
        pixels.read(tmp_path, item("../a.png", (8, 8)))
