"""Stable Video Diffusion against diffusers' pipeline: what it is told of a clip, noise, scale and direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionOutput
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from runtime import plan
from runtime.data.pixels import tensor
from runtime.families import inspect, svd
from runtime.families.protocol import Modules, Wish
from runtime.safeio import digest

FRAMES, SIDE = 3, 64
CLIP = plan.Clip(frames=(plan.Frame(path="a.gif", sha256="", number=0),) * FRAMES, fps=7, motion=99)
OBJECTIVE = plan.Objective()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return svd.tiny(tmp_path_factory.mktemp("svd") / "base")


@pytest.fixture(scope="module")
def base(path: Path) -> plan.Base:
    return inspect.inspect(path, digest.sha256_file).base


@pytest.fixture
def modules(path: Path, base: plan.Base) -> Modules:
    return {name: svd.load(path, base, name, torch.float32) for name in svd.COMPONENTS}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def test_the_first_frame_is_seen_as_the_pipeline_sees_it(
    path: Path, modules: Modules, picture: Image.Image
) -> None:
    pipe: Any = DiffusionPipeline.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        found = svd.encode_picture(modules, tensor(picture, flip=False).expand(1, FRAMES, -1, -1, -1))
        theirs = pipe._encode_image(picture, "cpu", 1, False)

    assert torch.allclose(found["image"], theirs, atol=1e-5)
    assert found["latent_mean"].shape == (1, FRAMES, 4, SIDE // 8, SIDE // 8)
    assert (found["first"] - found["latent_mean"][:, 0]).abs().max() > 0, (
        "the frame beside the noise has some, too"
    )


def test_what_is_trained_is_what_the_pipeline_takes(
    base: plan.Base, modules: Modules, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UNet that knows the clip and tells v as EDM does has no loss, and the pipeline draws the clip with it."""
    known = torch.randn(FRAMES, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    scaled = known * base.architecture["vae"]["scaling_factor"]
    told: list[Tensor] = []

    def oracle(sample: Tensor, timestep: Tensor, added_time_ids: Tensor, **_: Any) -> Any:
        told.append(added_time_ids[-1])
        sigma = (4 * timestep.float()).exp().view(-1, 1, 1, 1, 1)
        noisy = sample[:, :, :4] * (sigma**2 + 1).sqrt()
        noise = (noisy - scaled) / sigma
        return UNetSpatioTemporalConditionOutput(sample=(noise - sigma * scaled) / (sigma**2 + 1).sqrt())

    monkeypatch.setattr(modules["unet"], "forward", oracle)
    item = plan.Item(
        path="a.gif",
        sha256="",
        width=SIDE,
        height=SIDE,
        caption="",
        repeats=1,
        bucket=(SIDE, SIDE),
        clip=CLIP,
    )
    batch = svd.example(base.architecture, 1, (SIDE, SIDE, FRAMES), False)
    batch |= {"latent_mean": known[None], "latent_std": torch.zeros(1, *known.shape)}
    drawn = {
        **svd.draw({"latent_mean": known}, torch.Generator().manual_seed(0), OBJECTIVE),
        **svd.conditions(item, (0, 0)),
    }
    batch |= {name: one[None] for name, one in drawn.items()}
    assert svd.loss(modules, batch, base, OBJECTIVE).item() < 1e-8

    wish = Wish(
        prompt="a.gif", negative_prompt="", seeds=[0], steps=3, guidance=1.0, width=SIDE, height=SIDE,
        start=picture, clip=CLIP,
    )  # fmt: skip
    with torch.no_grad():
        frames = svd.sample(modules, {}, base, wish)
        wanted = (svd.decode(modules, known[None]) / 2 + 0.5).clamp(0, 1) * 255
    ours, *_, theirs = told
    assert torch.allclose(ours, torch.tensor([6.0, 99.0, 0.02])) and torch.allclose(ours, theirs)
    assert len(frames) == FRAMES
    for frame, one in zip(frames, wanted, strict=True):
        assert (pil_to_tensor(frame) - one).abs().max() <= 2


def test_noise_is_drawn_as_the_paper_says() -> None:
    latent = torch.zeros(1, 4, 1, 1)
    generator = torch.Generator().manual_seed(0)
    logs = torch.stack(
        [svd.draw({"latent_mean": latent}, generator, OBJECTIVE)["sigma"] for _ in range(2000)]
    ).log()

    assert abs(logs.mean() - 0.7) < 0.1 and abs(logs.std() - 1.6) < 0.1
