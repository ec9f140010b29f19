"""A fixed sheet of 32 prompts, to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from model import NOISE
from PIL import Image

STEPS, GUIDANCE = 20, 4.0

PROMPTS = [
    "cat face, animal",
    "dog face, animal",
    "tiger, animal",
    "snake, animal",
    "monkey, animal",
    "frog face, animal",
    "swan, bird",
    "penguin, bird",
    "snail, insect",
    "butterfly, insect",
    "cactus, plant",
    "mushroom, plant",
    "strawberry, fruit",
    "green apple, fruit",
    "cherries, fruit",
    "banana, fruit",
    "aubergine, vegetable",
    "carrot, vegetable",
    "slice of pizza, food",
    "pretzel, food",
    "hamburger, food",
    "soft ice cream, food",
    "beer mug, drink",
    "pensive face, face",
    "smiling face with horns, face",
    "smiling face with sunglasses, face",
    "ghost, face",
    "heart on fire, heart",
    "sailboat, vehicle",
    "rocket, vehicle",
    "guitar, music",
    "volleyball, sport",
]


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel, vae: AutoencoderKL, embed: Callable[[list[str]], torch.Tensor], seed: int = 0
) -> torch.Tensor:
    """The 32 pictures, float (32, 3, 64, 64) in 0 to 1, by DPM-Solver++ with classifier-free guidance."""
    scheduler = DPMSolverMultistepScheduler(**NOISE, steps_offset=1)
    scheduler.set_timesteps(STEPS)
    words = torch.cat([embed(PROMPTS), embed([""]).expand(len(PROMPTS), -1, -1)])
    latents = torch.randn(len(PROMPTS), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", torch.bfloat16):
        for t in scheduler.timesteps:
            told, untold = unet(torch.cat([latents, latents]), t, words).sample.float().chunk(2)
            latents = scheduler.step(untold + GUIDANCE * (told - untold), t, latents).prev_sample
    return (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def write_sheet(pictures: torch.Tensor, path: Path, columns: int = 8, zoom: int = 2) -> None:
    """Lay pictures out in rows, enlarged."""
    n, _, height, width = pictures.shape
    rows = -(-n // columns)
    sheet = Image.new("RGB", (columns * width * zoom, rows * height * zoom), "white")
    for i, picture in enumerate((pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        place = (i % columns * width * zoom, i // columns * height * zoom)
        sheet.paste(
            Image.fromarray(picture).resize((width * zoom, height * zoom), Image.Resampling.NEAREST), place
        )
    sheet.save(path)
