"""Make the demo's labeller and judge: `make_clip.py --google DIR --twitter DIR --work DIR --out DIR`.

A small CLIP (Radford et al. 2021) by open_clip, trained on both emoji sets and their names, written as a folder that
open_clip loads by `local-dir:`. A tenth of the concepts is never shown: retrieval on them is measured and written to
`retrieval.json` beside the weights. Training that was stopped goes on where it was when it's called again.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from checkpoint import load_state, save_state
from pictures import SIZE, Concept, read_concepts, read_pixels
from safetensors.torch import save_file
from torch import Tensor, nn

from runtime.families import clip_vocabulary

VOCABULARY = 4096
CONTEXT = 24
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": SIZE,
        "layers": [1, 1, 2, 1],
        "width": 24,
    },  # a ResNet: small data wants its bias
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": 128,
        "heads": 4,
        "layers": 3,
        "hf_tokenizer_name": "emoji",  # with `local-dir:` open_clip takes the folder's own
        "tokenizer_kwargs": {"clean": "lower"},
    },
}
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}

BATCH = 192
PEAK_LR = 1e-3
WARMUP = 100
WEIGHT_DECAY = 0.1
EMA_DECAY = 0.998
SUBJECT, STYLE = 0.7, 0.4
# What each set looks like, so that the judge knows words for it.
LOOKS = {
    "google": ("noto style", "shaded", "shaded drawing", "drawing with outlines"),
    "twitter": ("twemoji style", "flat", "flat drawing", "flat colours"),
}
HELD_OUT = 10
"""One concept of so many is never shown."""


@attrs.frozen
class Shown:
    """The pictures to learn from, (2, n, 3, 64, 64) uint8 by set, and their concepts."""

    pixels: Tensor
    concepts: Sequence[Concept]


def is_held_out(concept: Concept) -> bool:
    """By the file name alone (CRC-32), so that it is the same on every machine."""
    return zlib.crc32(concept.file.encode()) % HELD_OUT == 0


def caption(concept: Concept, look: str, chooser: np.random.Generator) -> str:
    """One of its names, mostly with its subject, at times with a word for the set's look."""
    words = [str(chooser.choice(concept.names))]
    if chooser.random() < SUBJECT:
        words.append(concept.subject)
    if chooser.random() < STYLE:
        words.append(str(chooser.choice(LOOKS[look])))
    return ", ".join(words)


def varied(pixels: Tensor, flips: Tensor, chooser: torch.Generator) -> Tensor:
    """uint8 (n, 3, 64, 64) to [-1, 1], each moved, scaled, turned a little, recoloured a little, some mirrored."""
    n = len(pixels)
    angle = (torch.rand(n, generator=chooser) - 0.5) * 0.35
    scale = torch.exp((torch.rand(n, generator=chooser) - 0.4) * 0.5)
    shift = (torch.rand(n, 2, generator=chooser) - 0.5) * 0.35
    mirror = torch.where(flips & (torch.rand(n, generator=chooser) < 0.5), -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    grid = torch.stack(
        [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)],
        1,
    )
    moved = F.grid_sample(
        1 - pixels.float() / 255,
        F.affine_grid(grid, [n, 3, SIZE, SIZE], align_corners=False),
        align_corners=False,
    )
    tint = 1 + (torch.rand(n, 3, 1, 1, generator=chooser) - 0.5) * 0.2
    return 1 - 2 * (moved * tint).clamp(0, 1)


def train(shown: Shown, model: nn.Module, tokenizer: Any, work: Path, steps: int, seed: int) -> None:
    """Train for `steps` in all, going on from work/clip-state.safetensors; the model ends as its average."""
    torch.manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}],
        lr=PEAK_LR,
        betas=(0.9, 0.98),
    )
    ema = {key: value.detach().clone() for key, value in model.state_dict().items()}
    state = work / "clip-state.safetensors"
    step, spent = load_state(state, {"clip": model}, optimizer, ema)
    flips = torch.tensor([concept.flips for concept in shown.concepts])
    last, running = time.monotonic(), 0.0
    while step < steps:
        chooser, generator = np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed + step)
        rate = (
            PEAK_LR
            * min(1, (step + 1) / WARMUP)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = chooser.permutation(len(shown.concepts))[:BATCH]
        sets = chooser.integers(0, 2, len(chosen))
        said = [
            caption(shown.concepts[i], list(LOOKS)[which], chooser)
            for i, which in zip(chosen, sets, strict=True)
        ]
        real = varied(shown.pixels[sets, chosen], flips[chosen], generator)
        with torch.autocast("cpu", torch.bfloat16):
            pictures, texts, heat = model(real, tokenizer(said))
            logits = heat * pictures @ texts.T
        target = torch.arange(len(chosen))
        loss = (F.cross_entropy(logits.float(), target) + F.cross_entropy(logits.T.float(), target)) / 2
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # type: ignore[operator, union-attr]
            decay = min(EMA_DECAY, (step + 1) / (step + 10))
            for key, value in model.state_dict().items():
                if value.is_floating_point():
                    ema[key].lerp_(value, 1 - decay)
        running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
        step, now = step + 1, time.monotonic()
        spent, last = spent + now - last, now
        if step % 25 == 0:
            print(f"clip step {step}  {spent / 60:.1f} min  loss {running:.4f}", flush=True)
        if step % 200 == 0:
            save_state(state, step, spent, {"clip": model}, optimizer, ema)
    save_state(state, step, spent, {"clip": model}, optimizer, ema)
    model.load_state_dict(ema)


@torch.no_grad()
def retrieval(
    model: nn.Module, tokenizer: Any, pixels: Tensor, concepts: Sequence[Concept]
) -> dict[str, float]:
    """Of all prompts of these concepts, how often a picture's own is first, or among the first five; and by chance."""
    model.eval()
    real = pixels.float() / 127.5 - 1
    pictures = model.encode_image(real, normalize=True)  # type: ignore[operator]
    texts = model.encode_text(tokenizer([c.prompt for c in concepts]), normalize=True)  # type: ignore[operator]
    order = (pictures @ texts.T).argsort(dim=1, descending=True)
    place = (order == torch.arange(len(concepts))[:, None]).int().argmax(dim=1)
    return {
        "concepts": len(concepts),
        "top_1": round(float((place < 1).float().mean()), 4),
        "top_5": round(float((place < 5).float().mean()), 4),
        "chance_top_1": round(1 / len(concepts), 4),
        "chance_top_5": round(5 / len(concepts), 4),
    }


def write(model: nn.Module, tokenizer: Any, found: dict[str, Any], out: Path) -> None:
    """The folder that open_clip loads by `local-dir:`: config, fp16 weights, tokenizer; and what was measured."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.tokenizer.save_pretrained(out)
    save_file(_halved(model.state_dict()), out / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (out / "retrieval.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}


def make_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer cut to `VOCABULARY`, as open_clip wraps one."""
    clip_vocabulary.tokenizer(VOCABULARY).save_pretrained(folder)
    return open_clip.tokenizer.HFTokenizer(str(folder), context_length=CONTEXT, clean="lower")


FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--google", type=FOLDER, required=True, help="The npm package emoji-datasource-google.")
@click.option("--twitter", type=FOLDER, required=True, help="The npm package emoji-datasource-twitter.")
@click.option("--work", type=FOLDER, required=True, help="Where the training state is kept.")
@click.option("--out", type=FOLDER, required=True, help="Where the finished CLIP goes.")
@click.option("--steps", default=600, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(google: Path, twitter: Path, work: Path, out: Path, steps: int, threads: int) -> None:
    """Train the emoji CLIP from the two npm packages and write it as an open_clip folder."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    concepts = read_concepts(google)
    files = [concept.file for concept in concepts]
    pixels = torch.stack([torch.from_numpy(read_pixels(folder, files)) for folder in (google, twitter)])
    pixels = pixels.permute(0, 1, 4, 2, 3).contiguous()
    away = torch.tensor([is_held_out(concept) for concept in concepts])
    hidden = [concept for concept in concepts if is_held_out(concept)]
    torch.manual_seed(0)
    model = open_clip.CLIP(CONFIG["embed_dim"], CONFIG["vision_cfg"], dict(CONFIG["text_cfg"]))
    tokenizer = make_tokenizer(work / "tokenizer")
    shown = Shown(pixels[:, ~away], [concept for concept in concepts if not is_held_out(concept)])
    train(shown, model, tokenizer, work, steps, seed=0)
    found = {
        "command": "just clip",
        "steps": steps,
        "unseen concepts": {
            name: retrieval(model, tokenizer, pixels[place, away], hidden) for place, name in enumerate(LOOKS)
        },
        "seen concepts": {
            name: retrieval(model, tokenizer, shown.pixels[place], shown.concepts)
            for place, name in enumerate(LOOKS)
        },
    }
    write(model, tokenizer, found, out)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
