"""The base's UNet and text encoder, trained together on Noto's pictures and their names."""

from __future__ import annotations

import copy
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from captions import Vocabulary, draw_caption
from checkpoint import load_state, save_state
from diffusers import AutoencoderKL, UNet2DConditionModel
from model import TrainingAttention, make_text_encoder, make_unet, noise_schedule
from pictures import Concept
from sheet import PROMPTS, sample, write_sheet
from transformers import CLIPTextModel

Part = tuple[float, tuple[torch.Tensor | None, ...]]

BATCH = 24
PEAK_LR = 1e-3
LAST_LR = 2e-5
WARMUP = 150
WEIGHT_DECAY = 0.01
MIN_SNR_GAMMA = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"
EMA_DECAY = 0.998
THIN_UNTIL = 0.8  # of the time; then attention to all places, as in use
WORKERS = 2
SAVE_EVERY, SHEET_EVERY, LOG_EVERY = 100, 600, 20

DEMO_WEIGHT = 10.0
# Subjects with little in common or little to recognise at 64 px.
SELDOM_WEIGHT = 0.2
SELDOM = {"object", "place", "sign", "hand", "body part", "clothing", "game", "tool", "sky"}


def concept_weights(concepts: list[Concept], demo_files: set[str]) -> np.ndarray:
    """How often each concept is drawn, summing to 1: the demo's ten times as often as others."""
    weights = [SELDOM_WEIGHT if c.subject in SELDOM else 1.0 for c in concepts]
    shown = demo_files | {c.file for c in concepts if c.prompt in PROMPTS}
    weights = [DEMO_WEIGHT if c.file in shown else w for c, w in zip(concepts, weights, strict=True)]
    return np.array(weights) / sum(weights)


def train_unet(
    concepts: list[Concept],
    demo_files: set[str],
    latents: torch.Tensor,
    flipped: torch.Tensor,
    vocabulary: Vocabulary,
    vae: AutoencoderKL,
    work: Path,
    minutes: float,
    seed: int = 0,
) -> None:
    """Train for `minutes` in all, going on from work/unet-state.safetensors.

    `latents` and `flipped` are the scaled latents of the pictures and of their mirror images, both
    (n, 4, 16, 16) in the order of `concepts`.
    """
    torch.manual_seed(seed)
    unet, text = make_unet(), make_text_encoder(len(vocabulary.used))
    attention = TrainingAttention()
    unet.set_attn_processor(attention)
    modules = {"unet": unet, "text": text}
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True
    )
    weights = {f"{name}.{key}": p for name, module in modules.items() for key, p in module.named_parameters()}
    ema = {key: p.detach().clone() for key, p in weights.items()}
    state = work / "unet-state.safetensors"
    step, spent = load_state(state, modules, optimizer, ema)
    alphas = noise_schedule()
    # Min-SNR's weight, as the chance that a time is drawn: the same objective, and no time spent where it's small.
    snr = alphas / (1 - alphas)
    importance = snr.clamp(max=MIN_SNR_GAMMA) / snr
    chances = concept_weights(concepts, demo_files)
    flips = torch.tensor([c.flips for c in concepts])
    chooser, generator = np.random.default_rng([seed, step]), torch.Generator().manual_seed(seed + step)
    print(
        f"UNet {sum(p.numel() for p in unet.parameters()):,} parameters, {len(concepts)} concepts", flush=True
    )
    budget, last, running = minutes * 60, time.monotonic(), 0.0
    torch.set_num_threads(1)
    workers = ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(1,))
    while spent < budget:
        # Cosine over the time budget, since the machine is shared and its speed isn't known beforehand.
        progress = 0.5 * (1 + math.cos(math.pi * spent / budget))
        optimizer.param_groups[0]["lr"] = min(1, (step + 1) / WARMUP) * (
            LAST_LR + (PEAK_LR - LAST_LR) * progress
        )
        chosen = chooser.choice(len(concepts), size=BATCH, p=chances)
        ids = vocabulary.encode([draw_caption(concepts[i], chooser) for i in chosen])
        mirrored = flips[chosen] & (torch.rand(BATCH, generator=generator) < 0.5)
        clean = torch.where(mirrored.view(-1, 1, 1, 1), flipped[chosen], latents[chosen])
        noise = torch.randn(clean.shape, generator=generator)
        t = torch.multinomial(importance, BATCH, replacement=True, generator=generator)
        alpha = alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        attention.thin = spent < THIN_UNTIL * budget
        loss = _gradients(unet, text, parameters, (noisy, t, ids, noise), workers)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            decay = min(EMA_DECAY, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(ema.values()), list(weights.values()), 1 - decay)
        running = 0.98 * running + 0.02 * loss if running else loss
        step, now = step + 1, time.monotonic()
        spent, last = spent + now - last, now
        if step % LOG_EVERY == 0:
            print(f"unet step {step}  {spent / 60:.1f} min  loss {running:.4f}", flush=True)
        if step % SAVE_EVERY == 0:
            save_state(state, step, spent, modules, optimizer, ema)
        if step % SHEET_EVERY == 0:
            _sheet(modules, ema, vocabulary, vae, work / f"sheet-{step:05d}.png")
    save_state(state, step, spent, modules, optimizer, ema)
    _sheet(modules, ema, vocabulary, vae, work / f"sheet-{step:05d}.png")
    print(f"unet done: {step} steps, {spent / 60:.1f} min, loss {running:.4f}", flush=True)


def _gradients(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    parameters: list[torch.nn.Parameter],
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    workers: ThreadPoolExecutor,
) -> float:
    """Put the batch's gradient into `parameters` and return the loss; each worker takes a part of the batch.

    On a busy machine this is twice as fast as two threads inside each operation, which wait for each other.
    """

    def part(noisy: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, noise: torch.Tensor) -> Part:
        # The cache of cast weights is shared by all threads; without it each has a graph of its own.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            predicted = unet(noisy, t, text(ids).last_hidden_state).sample
        loss = F.mse_loss(predicted.float(), noise) / WORKERS
        return loss.item(), torch.autograd.grad(loss, parameters, allow_unused=True)

    parts = list(workers.map(part, *(tensor.chunk(WORKERS) for tensor in batch)))
    for parameter, *gradients in zip(parameters, *(gradients for _, gradients in parts), strict=True):
        parameter.grad = None if gradients[0] is None else sum(gradients[1:], gradients[0])
    return sum(loss for loss, _ in parts)


def _sheet(
    modules: dict[str, torch.nn.Module],
    ema: dict[str, torch.Tensor],
    vocabulary: Vocabulary,
    vae: AutoencoderKL,
    path: Path,
) -> None:
    """Draw the sheet with the averaged weights."""
    averaged = {name: copy.deepcopy(module).eval() for name, module in modules.items()}
    for name, module in averaged.items():
        prefix = f"{name}."
        values = {key[len(prefix) :]: value for key, value in ema.items() if key.startswith(prefix)}
        module.load_state_dict(values, strict=False)

    def embed(prompts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            return averaged["text"](vocabulary.encode(prompts)).last_hidden_state

    write_sheet(sample(averaged["unet"], vae, embed), path)
