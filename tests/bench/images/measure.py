"""What is measured of a run on pictures, alike for each trainer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import cattrs
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional as F

from tests.bench.clock import Clock
from tests.bench.images.pictures import captions, pixels
from tests.bench.images.setting import Setting, Task

LEVELS = (166, 500, 833)
"""Timesteps at which the held-out loss is measured: the middles of three equal parts of the schedule."""


@attrs.frozen(kw_only=True)
class Reached:
    """A checkpoint: seconds, and the processor's, from the command to its step's end; the held-out loss of its file."""

    step: int
    seconds: float
    cpu_seconds: float
    loss: float


@attrs.frozen(kw_only=True)
class Result:
    """One run. Speed is of the steps after the warm-up, checkpoints included; memory is resident bytes of the process.

    `start_seconds` go from the command to the first step, `seconds` to the last step's end; `cpu_seconds`, of all
    threads, likewise. `held_out_loss` is of the last checkpoint, None where nothing is held out.
    """

    name: str
    samples_per_second: float
    seconds_per_step: float
    cpu_seconds_per_step: float
    start_seconds: float
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    last_loss: float
    held_out_loss: float | None
    curve: list[Reached]
    losses: list[float]


def result(task: Task, clock: Clock, files: Mapping[int, Path]) -> Result:
    """Put together what the clock saw and what the LoRA files of some steps (counted from 1) do to held-out pictures.

    Raises ValueError where steps are missing.
    """
    setting = task.setting
    if len(clock.ends) != setting.steps:
        raise ValueError(f"{len(clock.ends)} steps ended of {setting.steps}")
    counted = setting.steps - setting.warm_up
    losses = held_out(setting, files) if setting.held_out else {}
    curve = [
        Reached(
            step=step,
            seconds=clock.ends[step - 1] - clock.began,
            cpu_seconds=clock.cpu[step - 1],
            loss=loss,
        )
        for step, loss in sorted(losses.items())
    ]
    return Result(
        name=task.way.name,
        samples_per_second=counted * setting.batch / clock.seconds(setting.warm_up),
        seconds_per_step=clock.seconds(setting.warm_up) / counted,
        cpu_seconds_per_step=clock.cpu_seconds(setting.warm_up) / counted,
        start_seconds=clock.start_seconds,
        seconds=clock.ends[-1] - clock.began,
        cpu_seconds=clock.cpu[-1],
        peak_bytes=clock.peak,
        last_loss=clock.last_loss(),
        held_out_loss=curve[-1].loss if curve else None,
        curve=curve,
        losses=clock.losses,
    )


@torch.no_grad()
def held_out(setting: Setting, files: Mapping[int, Path]) -> dict[int, float]:
    """The loss of held-out pictures by step, of LoRA files as diffusers loads them: float32, fixed noise and times."""
    pipe = StableDiffusionPipeline.from_pretrained(setting.base, torch_dtype=torch.float32)
    folder = Path(setting.held_out)
    named = captions(folder)
    pictures = torch.stack([pixels(folder / name, setting.resolution, flip=False) for name in named])
    ids = pipe.tokenizer(
        list(named.values()),
        padding="max_length",
        truncation=True,
        max_length=pipe.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    text = pipe.text_encoder(ids)[0]
    latents = pipe.vae.encode(pictures).latent_dist.mean * pipe.vae.config.scaling_factor
    found = {}
    for step, file in files.items():
        pipe.load_lora_weights(file.parent, weight_name=file.name)
        found[step] = _loss(pipe, latents, text)
        pipe.unload_lora_weights()
    return found


def _loss(pipe: StableDiffusionPipeline, latents: Tensor, text: Tensor) -> float:
    """Mean squared error of the predicted noise, over pictures and levels."""
    generator = torch.Generator().manual_seed(0)
    alphas = pipe.scheduler.alphas_cumprod
    losses = []
    for level in LEVELS:
        noise = torch.randn(latents.shape, generator=generator)
        noisy = alphas[level].sqrt() * latents + (1 - alphas[level]).sqrt() * noise
        said = pipe.unet(noisy, torch.full((len(latents),), level), text).sample
        losses.append(F.mse_loss(said, noise))
    return float(torch.stack(losses).mean())


def main(run: Callable[[Task], Result]) -> None:
    """A runner's command line: the task as JSON, then the file for the result."""
    found = run(Task.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(cattrs.unstructure(found)), encoding="utf-8")
