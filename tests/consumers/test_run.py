"""A trained run's own files in diffusers: the picture is the one that the runtime drew."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from runtime import plan
from tests.consumers import a1111, additional_networks, comfyui, kohya
from tests.consumers.loaded import unlike
from tests.runtime.plans import carry_out, tiny_plan

SIDE, STEPS, GUIDANCE, SEED, PROMPT = 64, 4, 4.0, 11, "noise 3, tiny style"


@pytest.fixture(scope="module")
def of(tiny_base: Path, tiny_data: Path) -> plan.Plan:
    """A plan that trains every kind of layer, with a picture at the end at weight 0.8."""
    plain = tiny_plan(tiny_base, tiny_data).outputs.samples
    samples = attrs.evolve(
        plain, prompts=(PROMPT,), seed=SEED, steps=STEPS, guidance=GUIDANCE, width=SIDE, height=SIDE
    )
    return tiny_plan(
        tiny_base,
        tiny_data,
        targets="qkvo+ff",
        text_encoder=True,
        modules={"unet": 160, "text_encoder": 12},
        learning_rate=5e-2,
        text_encoder_learning_rate=1e-2,
        samples=samples,
        alpha=5.0,
    )


@pytest.fixture(scope="module")
def folder(of: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carry_out(of, tmp_path_factory.mktemp("run")).parent


def drawn(base: Path, lora: Path | None, **how: str) -> np.ndarray:
    """diffusers' picture from the base's own folder, with the LoRA at weight 0.8."""
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32, safety_checker=None)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="leading", steps_offset=1
    )
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(str(lora), adapter_name="it", **how)
        pipe.set_adapters("it", 0.8)
    picture = pipe(
        PROMPT,
        negative_prompt="",
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        width=SIDE,
        height=SIDE,
        generator=torch.Generator("cpu").manual_seed(SEED),
    ).images[0]
    return np.asarray(picture, dtype=np.int16)


@pytest.mark.parametrize("how", [{"weight_name": "tiny.safetensors"}, {}], ids=["kohya's names", "its own"])
def test_diffusers_draws_the_picture_that_the_run_drew(
    tiny_base: Path, folder: Path, how: dict[str, str]
) -> None:
    ours = np.asarray(Image.open(folder / "samples" / "final-00.png"), dtype=np.int16)

    assert np.abs(drawn(tiny_base, folder, **how) - ours).max() <= 1
    assert np.abs(drawn(tiny_base, None) - ours).max() > 20, "the LoRA changes nothing, so nothing is shown"


@pytest.mark.parametrize("consumer", [a1111, additional_networks, comfyui, kohya])
def test_every_key_of_a_run_is_matched(of: plan.Plan, folder: Path, consumer: type) -> None:
    """All consumers find the same change in it, and it is not zero."""
    architecture = of.program.base.architecture
    found = consumer.load(folder / "tiny.safetensors", architecture)  # type: ignore[attr-defined]
    reference = kohya.load(folder / "tiny.safetensors", architecture).changes

    assert found.left == []
    assert len(found.changes) == 172
    assert unlike(found.changes, reference) == []
    assert all(change.any() for change in found.changes.values())


def test_a_checkpoint_s_file_is_loaded_too(of: plan.Plan, folder: Path) -> None:
    checkpoints = sorted(folder.glob("checkpoints/*/tiny-*.safetensors"))

    assert [path.name for path in checkpoints] == ["tiny-000004.safetensors", "tiny-000006.safetensors"]
    for path in checkpoints:
        loaded = a1111.load(path, of.program.base.architecture)
        assert (len(loaded.changes), loaded.left, a1111.card(path).alias) == (172, [], path.stem)
