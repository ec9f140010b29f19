"""Stable Video Diffusion against diffusers' pipeline: what it is told of a clip, noise, scale and direction; and its
single file, at full size by names and shapes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionOutput
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from runtime import plan
from runtime.data.pixels import tensor
from runtime.errors import InputError
from runtime.families import inspect, svd, video_ldm
from runtime.families.protocol import Modules, Wish
from runtime.safeio import digest
from tests import single_files
from tests.single_files import svd as svd_file

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


# -------------------------------------------------------------------------------------------------------- single file

PUBLISHED_NAMES = (2194, "c8814b942dcc89b25b2f2c9f0896304b1a74bdc75f676b25aa8eb0be1d60c0c6")
"""How many tensors of the published file other programs read, and the SHA-256 of their sorted names, one a line: those
that the tables of DiffSynth-Studio's SVD loaders list (modelscope/DiffSynth-Studio at c35f2d8b,
diffsynth/models/svd_*.py), as lorac has no such file."""


@pytest.fixture(scope="module")
def one_file(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return single_files.write("svd", path, tmp_path_factory.mktemp("one") / "svd.safetensors")


def test_a_file_of_full_size_is_the_published_model_and_all_that_is_known_of_it_is_read() -> None:
    published = svd.published()
    with torch.device("meta"):
        modules = {name: svd.build(published, name).state_dict() for name in svd.COMPONENTS}
        file = svd_file.layout(modules["unet"], modules["image_encoder"], modules["vae"])
    known = {name for name in file if not re.match("|".join(svd_file.UNUSED), name)}
    read: set[str] = set()

    def load(name: str) -> Tensor:
        read.add(name)
        return file[name]

    found = svd.architecture({name: tuple(one.shape) for name, one in file.items()})
    weights = {
        "unet": video_ldm.unet_weights(list(file), load, found["unet"]),
        "image_encoder": video_ldm.vision_weights(file, load),
        "vae": video_ldm.vae_weights(list(file), load, found["vae"]),
    }

    assert (len(known), hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()) == PUBLISHED_NAMES
    assert found == published | {"unet": {k: v for k, v in published["unet"].items() if k != "num_frames"}}
    assert read == known
    for component, of in modules.items():
        assert {name: one.shape for name, one in weights[component].items()} == {
            name: one.shape for name, one in of.items()
        }, component


def test_a_single_file_encodes_learns_and_decodes_as_the_folder(
    base: plan.Base, modules: Modules, one_file: Path, picture: Image.Image
) -> None:
    found = inspect.inspect(one_file, digest.sha256_file).base
    ours = {name: svd.load(one_file, found, name, torch.float32) for name in svd.COMPONENTS}
    clip = tensor(picture, flip=False).expand(1, FRAMES, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    batch = {
        name: torch.rand(one.shape, generator=generator) + 0.5
        for name, one in svd.example(base.architecture, 2, (SIDE, SIDE, FRAMES), False).items()
    }

    assert svd.prediction_type(found.architecture) == base.prediction_type
    with torch.no_grad():
        encoded, meant = (svd.encode_picture(of, clip) for of in (ours, modules))
        assert all(torch.equal(encoded[name], one) for name, one in meant.items())
        assert torch.equal(svd.loss(ours, batch, found, OBJECTIVE), svd.loss(modules, batch, base, OBJECTIVE))
        pixels, wanted = (svd.decode(of, batch["latent_mean"]) for of in (ours, modules))
        assert torch.equal(pixels, wanted)


def test_a_single_file_is_drawn_with_as_the_published_folder_is(path: Path, one_file: Path) -> None:
    found = inspect.inspect(one_file, digest.sha256_file).base
    pipe = DiffusionPipeline.from_pretrained(path, dtype=torch.float32)

    said = found.architecture["scheduler"]
    assert said == {key: pipe.scheduler.config[key] for key in said}
    assert (said["prediction_type"], said["use_karras_sigmas"], said["timestep_type"]) == (
        "v_prediction",
        True,
        "continuous",
    )


@pytest.mark.parametrize(
    ("left_out", "what"),
    [
        (r"first_stage_model\.decoder\..*(time_|mix_factor)", "without the decoder over time"),
        (r"conditioner\.embedders\.3\.", "without the first frame's encoder"),
        (r"conditioner\.embedders\.0\.", "without CLIP's vision tower"),
    ],
)
def test_a_file_without_a_part_of_the_model_is_refused_by_what_it_lacks(
    left_out: str, what: str, one_file: Path, tmp_path: Path
) -> None:
    rest = {name: one for name, one in load_file(one_file).items() if not re.match(left_out, name)}
    save_file(rest, tmp_path / "one.safetensors")

    with pytest.raises(InputError, match=f"is a Stable Video Diffusion file {what}"):
        inspect.inspect(tmp_path / "one.safetensors", digest.sha256_file)


@pytest.mark.parametrize(
    ("component", "left_out", "missing"),
    [
        (
            "unet",
            "model.diffusion_model.output_blocks.2.0.time_mixer.mix_factor",
            "up_blocks.1.resnets.0.time_mixer.mix_factor",
        ),
        (
            "image_encoder",
            "conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.1.attn.in_proj_bias",
            "vision_model.encoder.layers.1.self_attn.k_proj.bias",
        ),
        (
            "vae",
            "first_stage_model.decoder.up.3.block.1.time_stack.out_layers.3.weight",
            "decoder.up_blocks.0.resnets.1.temporal_res_block.conv2.weight",
        ),
    ],
)
def test_a_file_without_one_tensor_is_told_which(
    component: str, left_out: str, missing: str, one_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one.safetensors"
    rest = load_file(one_file)
    del rest[left_out]
    save_file(rest, file)

    with pytest.raises(InputError, match=f"{component}: has no tensor {re.escape(missing)}"):
        svd.load(file, inspect.inspect(file, digest.sha256_file).base, component, torch.float32)


def test_a_relative_that_is_told_other_things_is_refused_by_name(one_file: Path, tmp_path: Path) -> None:
    tensors = load_file(one_file)
    name = "model.diffusion_model.label_emb.0.0.weight"
    tensors[name] = tensors[name].new_zeros(tensors[name].shape[0], 5 * 8)  # SV3D: angles of the camera
    save_file(tensors, tmp_path / "sv3d_p.safetensors")

    with pytest.raises(InputError, match=r"is a relative of Stable Video Diffusion .* as SV3D is"):
        inspect.inspect(tmp_path / "sv3d_p.safetensors", digest.sha256_file)
