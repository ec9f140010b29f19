"""Z-Image and Qwen-Image against diffusers' pipelines: the same embeddings, the same times, directions and scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from runtime import plan
from runtime.errors import InputError
from runtime.families import family, flow, inspect, patches, qwen_image
from runtime.families.protocol import Family, Modules, Wish
from runtime.safeio import digest
from tests import single_files

CAPTIONS = ["a cat", "a much longer caption of a cat that sits on a mat", ""]
SIDE = 64


@attrs.frozen
class Case:
    of: Family
    path: Path
    base: plan.Base
    modules: Modules
    tokenizers: dict[str, Any]


@pytest.fixture(scope="module", params=["z_image", "qwen_image"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    of = family(request.param)
    path = of.tiny(tmp_path_factory.mktemp(request.param) / "base")
    base = inspect.inspect(path, digest.sha256_file).base
    modules = {name: of.load(path, base, name, torch.float32) for name in of.COMPONENTS}
    return Case(of, path, base, modules, of.load_tokenizers(path, base))


def test_captions_are_encoded_as_the_pipeline_encodes_them(case: Case) -> None:
    pipe = DiffusionPipeline.from_pretrained(case.path, dtype=torch.float32)
    pipe.prompt_template_encode_start_idx = len(
        pipe.tokenizer(qwen_image.BEGIN).input_ids
    )  # 34 in Qwen's own
    with torch.no_grad():
        found = case.of.encode_text(case.modules, case.of.tokenize(case.tokenizers, CAPTIONS))
        for number, caption in enumerate(CAPTIONS):
            theirs = pipe.encode_prompt([caption], "cpu")[0][0]
            ours = found["hidden"][number, found["mask"][number]]
            assert torch.allclose(ours, theirs, atol=1e-5)


def z_image_s_oracle(latents: Tensor) -> Callable[..., Any]:
    """What a perfect Z-Image says of any point on the way to these latents, (C, h, w), by its own conventions."""

    def forward(x: list[Tensor], t: Tensor, texts: list[Tensor], **_: Any) -> Transformer2DModelOutput:
        said = [(latents.unsqueeze(1) - one) / (1 - time) for one, time in zip(x, t, strict=True)]
        return Transformer2DModelOutput(sample=said)  # type: ignore[arg-type]  # it is a list in diffusers too

    return forward


def qwen_image_s_oracle(latents: Tensor) -> Callable[..., Any]:
    """The same of a perfect Qwen-Image."""

    def forward(*, hidden_states: Tensor, timestep: Tensor, **_: Any) -> Transformer2DModelOutput:
        said = (hidden_states - patches.packed(latents[None])) / timestep.view(-1, 1, 1)
        return Transformer2DModelOutput(sample=said)

    return forward


def known(case: Case) -> tuple[Tensor, Tensor]:
    """Some latents (C, h, w) as the autoencoder has them, and as the pipeline's scale makes them."""
    vae = case.base.architecture["vae"]
    channels = vae.get("latent_channels", vae.get("z_dim"))
    mean = torch.randn(channels, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(3))
    if "scaling_factor" in vae:
        return mean, (mean - vae["shift_factor"]) * vae["scaling_factor"]
    middle, width = (torch.tensor(vae[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std"))
    return mean, (mean - middle) / width


def test_what_is_trained_is_what_the_pipeline_takes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer that knows the picture has no loss, and the pipeline draws the picture with it."""
    mean, scaled = known(case)
    oracle = {"z_image": z_image_s_oracle, "qwen_image": qwen_image_s_oracle}[case.of.NAME](scaled)
    monkeypatch.setattr(case.modules["transformer"], "forward", oracle)
    batch = case.of.example(case.base.architecture, 1, (SIDE, SIDE), False)
    batch |= {"latent_mean": mean[None], "latent_std": torch.zeros(1, *mean.shape)}
    drawn = case.of.draw(
        {"latent_mean": mean}, torch.Generator().manual_seed(0), plan.Objective(timestep_shift=2.0)
    )
    batch |= {name: tensor[None] for name, tensor in drawn.items()}

    assert case.of.loss(case.modules, batch, case.base, plan.Objective()).item() < 1e-8
    wish = Wish(prompt="a cat", negative_prompt="", seeds=[0], steps=3, guidance=1.0, width=SIDE, height=SIDE)
    with torch.no_grad():
        (picture,) = case.of.sample(case.modules, case.tokenizers, case.base, wish)
        wanted = case.of.decode(case.modules, mean[None])[0]
    assert (pil_to_tensor(picture) - (wanted / 2 + 0.5).clamp(0, 1) * 255).abs().max() <= 2


def test_a_sample_s_loss_is_the_same_beside_longer_captions(case: Case) -> None:
    objective = plan.Objective(timesteps="logit_normal", timestep_shift=2.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        text = case.of.encode_text(case.modules, case.of.tokenize(case.tokenizers, CAPTIONS))
    batch = case.of.example(case.base.architecture, len(CAPTIONS), (SIDE, SIDE), False) | text
    batch |= {
        name: torch.randn(batch[name].shape, generator=generator) for name in ("latent_mean", "latent_std")
    }
    drawn = [case.of.draw({"latent_mean": one}, generator, objective) for one in batch["latent_mean"]]
    batch |= {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
    with torch.no_grad():
        together = case.of.loss(case.modules, batch, case.base, objective)
        apart = [
            case.of.loss(case.modules, {n: t[i : i + 1] for n, t in batch.items()}, case.base, objective)
            for i in range(len(CAPTIONS))
        ]
    assert torch.allclose(together, torch.cat(apart), rtol=1e-5)


def test_a_file_with_the_transformer_alone_is_known_and_told_what_it_lacks(
    case: Case, tmp_path: Path
) -> None:
    alone = single_files.write_apart(case.of.NAME, case.path, tmp_path)["transformer"]

    with pytest.raises(InputError) as refused:
        inspect.inspect(alone, digest.sha256_file)
    (problem,) = refused.value.problems
    assert case.of.TITLE in problem.what and "without" in problem.what
    assert "parts=" in problem.hint


def test_a_file_that_lacks_what_tells_its_size_is_no_whole_file(case: Case, tmp_path: Path) -> None:
    names = {
        "z_image": ("cap_pad_token", "layers.0.attention.qkv.weight"),
        "qwen_image": ("txt_norm.weight", "transformer_blocks.0.img_mod.1.weight"),
    }
    save_file({name: torch.zeros(1) for name in names[case.of.NAME]}, tmp_path / "cut.safetensors")

    with pytest.raises(InputError, match=r"has no tensor (x_embedder|img_in)\.weight"):
        inspect.inspect(tmp_path / "cut.safetensors", digest.sha256_file)


@pytest.mark.parametrize("side", [512, 1024, 1328])
def test_qwen_image_s_shift_by_size_is_the_scheduler_s(side: int) -> None:
    latent, sigma = torch.zeros(16, side // 8, side // 8), []
    mu = calculate_shift((side // 16) ** 2, 256, 8192, 0.5, 0.9)
    for given in (plan.Objective(timestep_shift=0.0), plan.Objective(timestep_shift=1.0)):
        drawn = qwen_image.draw({"latent_mean": latent}, torch.Generator().manual_seed(0), given)
        sigma.append(drawn["sigma"])

    assert torch.allclose(sigma[0], flow.shifted(sigma[1], math.exp(mu)))
