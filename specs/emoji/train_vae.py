"""The base's autoencoder: 64×64 pictures to 4×16×16 latents and back, trained on both emoji sets."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from checkpoint import load_state, save_state
from diffusers import AutoencoderKL

BATCH = 16
PEAK_LR = 1e-3
WARMUP = 50
KL_WEIGHT = 1e-3
EMA_DECAY = 0.998

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [32, 64, 96],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 64,
}

# Luma and the two chroma axes (ITU-R BT.601), the chroma doubled: L1 in RGB alone fades saturated colours.
YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.338, -0.662, 1.0], [1.0, -0.838, -0.162]])


def to_signed(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, 64, 64, 3) to float (n, 3, 64, 64) in -1 to 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def picture_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1, half of L2, L1 of the gradients, and L1 and L2 of luma and chroma at full, half and quarter size."""
    loss = F.l1_loss(made, real) + 0.5 * F.mse_loss(made, real)
    for axis in (2, 3):
        loss = loss + F.l1_loss(made.diff(dim=axis), real.diff(dim=axis))
    difference = torch.einsum("ij,njhw->nihw", YCC, made - real)
    for size in (1, 2, 4):
        pooled = F.avg_pool2d(difference, size)
        loss = loss + 0.5 * pooled.abs().mean() + pooled.square().mean()
    return loss


def vary(pictures: torch.Tensor, chooser: np.random.Generator) -> torch.Tensor:
    """The pictures mirrored or not, half of them with red, green and blue in another order.

    Most emoji are yellow, brown or blue. Without the changed colours the latent keeps no green-magenta axis:
    a green apple comes back brown.
    """
    if chooser.random() < 0.5:
        pictures = pictures.flip(3)
    orders = [chooser.permutation(3) if chooser.random() < 0.5 else np.arange(3) for _ in pictures]
    return torch.stack([picture[order] for picture, order in zip(pictures, orders, strict=True)])


def train_vae(pixels: np.ndarray, work: Path, minutes: float, seed: int = 0) -> None:
    """Train for `minutes` in all, going on from work/vae-state.safetensors; saves the EMA to work/vae."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(**CONFIG)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = {key: value.detach().clone() for key, value in vae.state_dict().items()}
    state = work / "vae-state.safetensors"
    step, spent = load_state(state, {"vae": vae}, optimizer, ema)
    pictures = to_signed(pixels)
    chooser = np.random.default_rng([seed, step])
    budget, last, running = minutes * 60, time.monotonic(), 0.0
    print(
        f"VAE: {sum(p.numel() for p in vae.parameters()):,} parameters, {len(pictures)} pictures", flush=True
    )
    while spent < budget:
        # Cosine over the time budget, since the machine is shared and its speed isn't known beforehand.
        lr = (
            PEAK_LR
            * min(1, (step + 1) / WARMUP)
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * spent / budget)))
        )
        optimizer.param_groups[0]["lr"] = lr
        real = vary(pictures[chooser.integers(len(pictures), size=BATCH)], chooser)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(real).latent_dist
            made = vae.decode(posterior.sample()).sample
        loss = picture_loss(made.float(), real) + KL_WEIGHT * posterior.kl().mean() / (4 * 16 * 16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            decay = min(EMA_DECAY, (step + 1) / (step + 10))
            for key, value in vae.state_dict().items():
                ema[key].lerp_(value, 1 - decay)
        running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
        step, now = step + 1, time.monotonic()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            print(f"vae step {step}  {spent / 60:.1f} min  loss {running:.4f}  lr {lr:.1e}", flush=True)
        if step % 500 == 0:
            save_state(state, step, spent, {"vae": vae}, optimizer, ema)
    save_state(state, step, spent, {"vae": vae}, optimizer, ema)
    vae.load_state_dict(ema)
    vae.save_pretrained(work / "vae")
    print(f"vae done: {step} steps, {spent / 60:.1f} min, loss {running:.4f}", flush=True)
