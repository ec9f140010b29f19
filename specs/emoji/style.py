"""How near does the LoRA bring the base to Twemoji? Measured on concepts that it never saw.

    python specs/emoji/style.py output/twemoji --out docs/style.json

For each held-out concept and seed the same prompt is drawn with the base, with the LoRA at its preferred weight (by
diffusers, from the file that a user gets), and with a control: the same LoRA with every up matrix replaced by random
numbers of the same norm. Four measures, all against the real pictures:

- style distance: how far the picture is from the concept's own Twemoji picture in the few numbers that describe
  flatness and colour (`features`, each in standard deviations over real pictures; root mean square). Less is nearer.
  This is the stated metric: a style LoRA cannot know how Twemoji composed a concept that it never saw, which is what
  pixels mostly compare.
- nearer than Noto: by how much the picture is nearer, in pixels, to the concept's Twemoji picture than to its Noto
  picture. More is nearer.

- pixel distance: the mean absolute difference of pixels (0 to 255) to the concept's own Twemoji picture, after
  averaging 2 × 2 pixels. Less is nearer.
- twemoji style: the probability that a picture is Twemoji and not Noto, by a logistic regression over the features;
  fitted on the held-out pictures of both sets that are not drawn, as the autoencoder redraws them; its accuracy on
  the others is told.

Intervals are 95 % bootstrap intervals of the mean over concepts (seeds of a concept stay together).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).parent
SEEDS = 2
STEPS, GUIDANCE = 20, 4.0
BATCH = 8
Pictures = NDArray[np.float64]
"""(N, 64, 64, 3), 0 to 255."""


def main() -> None:
    options = parser().parse_args()
    concepts = held_out(options.concepts)
    real = {
        kind: pictures([HERE / kind / "heldout" / name for name, _ in concepts])
        for kind in ("twemoji", "noto")
    }
    manifest = json.loads(next(options.run.glob("*.lorac.json")).read_text(encoding="utf-8"))
    weight = float(manifest["usage"]["preferred_weight"])
    lora = next(path for path in options.run.glob("*.safetensors") if path.stem != "pytorch_lora_weights")
    others = [name for name, _ in held_out(None) if name not in {drawn for drawn, _ in concepts}]
    style = Style(AutoencoderKL.from_pretrained(options.base / "vae", torch_dtype=torch.float32), others)
    drawn = {
        "base": draw(options.base, concepts, None, weight, options.seeds),
        "lora": draw(options.base, concepts, load_file(lora), weight, options.seeds),
        "random": draw(options.base, concepts, randomised(load_file(lora)), weight, options.seeds),
    }
    table = {name: measures(made, real, style, options.seeds) for name, made in drawn.items()}
    answer = {
        "command": f"python specs/emoji/style.py {options.run} --concepts {len(concepts)} --seeds {options.seeds}",
        "concepts": len(concepts),
        "seeds": options.seeds,
        "weight": weight,
        "style_accuracy_on_held_out_pictures": style.accuracy(real["twemoji"], real["noto"]),
        "real_twemoji_style": float(style.probability(real["twemoji"]).mean()),
        "real_noto_style": float(style.probability(real["noto"]).mean()),
        "mean": {name: {k: interval(v) for k, v in values.items()} for name, values in table.items()},
        "change_against_base": {
            name: {k: interval(table[name][k] - table["base"][k]) for k in table[name]}
            for name in ("lora", "random")
        },
    }
    text = json.dumps(answer, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("run", type=Path, help="a finished run's folder")
    made.add_argument("--base", type=Path, default=HERE / "base")
    made.add_argument("--concepts", type=int, default=24, help="held-out concepts to draw")
    made.add_argument("--seeds", type=int, default=SEEDS)
    made.add_argument("--out", type=Path)
    return made


def held_out(count: int | None) -> list[tuple[str, str]]:
    """(file name, prompt) of held-out concepts, evenly spread over the list; all where there is no count."""
    with (HERE / "twemoji" / "heldout" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["image"], row["prompt"]) for row in csv.DictReader(file)]
    count = len(rows) if count is None else min(count, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def pictures(paths: Sequence[Path]) -> Pictures:
    return np.stack([np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in paths])


def randomised(lora: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same keys and norms, but nothing learned."""
    generator = torch.Generator().manual_seed(0)
    made = dict(lora)
    for name, up in lora.items():
        if name.endswith("lora_up.weight"):
            noise = torch.randn(up.shape, generator=generator)
            made[name] = (noise * up.float().norm() / noise.norm()).to(up.dtype)
    return made


def draw(
    base: Path,
    concepts: list[tuple[str, str]],
    lora: dict[str, torch.Tensor] | None,
    weight: float,
    seeds: int,
    steps: int = STEPS,
) -> Pictures:
    """A picture for each concept and seed, in that order, by diffusers alone."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        base, safety_checker=None, local_files_only=True, torch_dtype=torch.float32
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
        pipeline.fuse_lora(lora_scale=weight)
    wishes = [(prompt, seed) for _, prompt in concepts for seed in range(seeds)]
    made = []
    for at in range(0, len(wishes), BATCH):
        part = wishes[at : at + BATCH]
        made += pipeline(
            [prompt for prompt, _ in part],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            width=64,
            height=64,
            generator=[torch.Generator().manual_seed(seed) for _, seed in part],
        ).images
    return np.stack([np.asarray(picture, dtype=np.float64) for picture in made])


def measures(
    made: Pictures, real: dict[str, Pictures], style: Style, seeds: int
) -> dict[str, NDArray[np.float64]]:
    """Each measure's mean over seeds, one number a concept."""
    wanted, before = (np.repeat(real[kind], seeds, axis=0) for kind in ("twemoji", "noto"))
    distance = np.abs(halved(made) - halved(wanted)).mean(axis=(1, 2, 3))
    to_noto = np.abs(halved(made) - halved(before)).mean(axis=(1, 2, 3))
    found = {
        "style_distance_to_twemoji": style.distance(made, wanted),
        "twemoji_style": style.probability(made),
        "pixels_nearer_to_twemoji_than_to_noto": to_noto - distance,
        "pixel_distance_to_twemoji": distance,
    }
    return {name: values.reshape(-1, seeds).mean(axis=1) for name, values in found.items()}


def halved(picture: Pictures) -> Pictures:
    n, h, w, c = picture.shape
    return picture.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """The mean and its 95 % bootstrap interval."""
    chooser = np.random.default_rng(0)
    means = values[chooser.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "mean": round(float(values.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


class Style:
    """Twemoji or Noto, by a logistic regression over `features`, fitted on the pictures of these names."""

    def __init__(self, vae: AutoencoderKL, names: Sequence[str]) -> None:
        self.vae = vae
        twemoji = features(self.redrawn(pictures([HERE / "twemoji" / "heldout" / name for name in names])))
        noto = features(self.redrawn(pictures([HERE / "noto" / "heldout" / name for name in names])))
        rows = np.concatenate([twemoji, noto])
        self.mean, self.std = rows.mean(axis=0), rows.std(axis=0)
        x = torch.tensor((rows - self.mean) / self.std)
        y = torch.cat([torch.ones(len(twemoji)), torch.zeros(len(noto))]).double()
        self.weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weights], max_iter=200)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(self._logits(x), y)
            loss = loss + 1e-3 * self.weights[1:].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    def redrawn(self, picture: Pictures) -> Pictures:
        """As the autoencoder gives them back, so that its own touch is on both sides."""
        with torch.no_grad():
            pixels = torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 127.5 - 1
            made = self.vae.decode(self.vae.encode(pixels).latent_dist.mean).sample
        return ((made.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).double().numpy()

    def probability(self, picture: Pictures) -> NDArray[np.float64]:
        x = torch.tensor((features(picture) - self.mean) / self.std)
        return torch.sigmoid(self._logits(x)).detach().numpy()

    def distance(self, made: Pictures, real: Pictures) -> NDArray[np.float64]:
        """Root mean square of the differences of the features, in their standard deviations."""
        apart = (features(made) - features(self.redrawn(real))) / self.std
        return np.sqrt(np.square(apart).mean(axis=1))

    def accuracy(self, twemoji: Pictures, noto: Pictures) -> float:
        right = (self.probability(self.redrawn(twemoji)) > 0.5).sum()
        right += (self.probability(self.redrawn(noto)) < 0.5).sum()
        return round(float(right) / (len(twemoji) + len(noto)), 4)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weights[1:] + self.weights[0]


def features(picture: Pictures) -> NDArray[np.float64]:
    """(N, 8): how flat, how colourful, how many colours, on the pixels that are not background."""
    ink = (picture.min(axis=3) < 235)[..., None]
    share = ink.mean(axis=(1, 2, 3)) + 1e-6
    steps = np.abs(np.diff(picture, axis=1))[:, :, :-1] + np.abs(np.diff(picture, axis=2))[:, :-1]
    steps = steps.sum(axis=3)
    inner = ink[:, :-1, :-1, 0]
    count = inner.sum(axis=(1, 2)) + 1e-6
    flat = [((steps < limit) & inner).sum(axis=(1, 2)) / count for limit in (6, 15, 40)]
    sharp = ((steps > 150) & inner).sum(axis=(1, 2)) / count
    saturation = ((picture.max(axis=3) - picture.min(axis=3)) * ink[..., 0]).mean(axis=(1, 2)) / share
    level = (picture.mean(axis=3) * ink[..., 0]).mean(axis=(1, 2)) / share
    entropy = np.array([_entropy(one[mask[..., 0]]) for one, mask in zip(picture, ink, strict=True)])
    return np.stack([*flat, sharp, saturation, level, entropy, share], axis=1)


def _entropy(pixels: NDArray[np.float64]) -> float:
    """Bits of the distribution of colours, in 16 levels a channel."""
    codes = (pixels // 16).astype(int) @ np.array([256, 16, 1])
    shares = np.bincount(codes) / max(1, len(codes))
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


if __name__ == "__main__":
    main()
