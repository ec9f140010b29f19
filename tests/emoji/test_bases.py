"""The embedded base as the three things that people download: a folder, a .safetensors and a .ckpt. One LoRA."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from runtime import plan
from tests.consumers import a1111, additional_networks, comfyui, kohya
from tests.consumers.loaded import unlike
from tests.single_files.sd1 import write_single_file

PROMPT, SEED, STEPS, GUIDANCE = "worried face, face, twemoji style", 7, 12, 4.0
SPEC = """\
from lorac import Experiment, Fit, Images, LoRA, Samples, Train

experiment = Experiment(
    name="emoji",
    base={base!r},
    data=Images({data!r}, resolution=64, buckets=False, trigger="twemoji style"),
    adapter=LoRA(rank=4, targets="qkvo+ff", text_encoder=True),
    train=Train(effective_batch=4, steps=8, learning_rate=2e-3, seed=1),
    fit=Fit(card="cpu", threads=2),
    samples=Samples(prompts=({prompt!r},), seed={seed}, steps={steps}, guidance={guidance}),
)
"""


@pytest.fixture(scope="module")
def trained(embedded_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs' folders by what the base was."""
    root = tmp_path_factory.mktemp("bases")
    data = str(embedded_base.parent / "twemoji" / "train")
    bases = {
        "folder": embedded_base,
        "safetensors": write_single_file(embedded_base, root / "emoji.safetensors"),
        "ckpt": write_single_file(embedded_base, root / "emoji.ckpt"),
    }
    folders = {}
    for kind, base in bases.items():
        project = root / kind
        project.mkdir()
        words = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "guidance": GUIDANCE}
        (project / "emoji.py").write_text(SPEC.format(base=str(base), data=data, **words), encoding="utf-8")
        command = [sys.executable, "-m", "lorac", "run", "emoji.py"]
        ran = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, ran.stderr
        folders[kind] = project / "output" / "emoji"
    return folders


def tensors(run: Path) -> dict[str, Tensor]:
    return load_file(run / "emoji.safetensors")


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_single_file_trains_the_very_lora_that_the_folder_trains(
    trained: dict[str, Path], kind: str
) -> None:
    wanted, found = tensors(trained["folder"]), tensors(trained[kind])

    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert any(tensor.any() for name, tensor in wanted.items() if "lora_up" in name)


@pytest.mark.parametrize("consumer", [a1111, additional_networks, comfyui, kohya])
def test_every_key_is_matched_and_none_is_left_over(trained: dict[str, Path], consumer: type) -> None:
    architecture = plan.read(trained["folder"] / "plan.json").program.base.architecture
    file = trained["folder"] / "emoji.safetensors"
    found = consumer.load(file, architecture)  # type: ignore[attr-defined]

    assert found.left == []
    assert len(found.changes) == len(tensors(trained["folder"])) // 3
    assert unlike(found.changes, kohya.load(file, architecture).changes) == []


def test_diffusers_draws_the_picture_that_the_run_drew(trained: dict[str, Path], embedded_base: Path) -> None:
    ours = np.asarray(Image.open(trained["folder"] / "samples" / "final-00.png"), dtype=np.int16)
    file = trained["folder"] / "emoji.safetensors"

    assert np.abs(drawn(embedded_base, file) - ours).max() <= 1
    assert np.abs(drawn(embedded_base, None) - ours).max() > 5, (
        "the LoRA changes nothing, so nothing is shown"
    )


def drawn(base: Path, lora: Path | None) -> np.ndarray:
    """diffusers' own picture, with the LoRA at weight 0.8."""
    pipe = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32, safety_checker=None)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="leading", steps_offset=1
    )
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name="it")
        pipe.set_adapters("it", 0.8)
    picture = pipe(
        PROMPT,
        negative_prompt="",
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(SEED),
    ).images[0]
    return np.asarray(picture, dtype=np.int16)
