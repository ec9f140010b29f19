"""The trained parts as one diffusers folder, in fp16."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from captions import Vocabulary
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from model import NOISE, make_text_encoder, make_unet
from safetensors import safe_open
from tokenizer import load_tokenizer, write_tokenizer
from transformers import CLIPTextModel

# As runwayml/stable-diffusion-v1-5's scheduler_config.json.
SCHEDULER = PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)


def export(work: Path, out: Path, vocabulary: Vocabulary) -> None:
    """Write the averaged weights of work/unet-state.safetensors and the rescaled autoencoder to `out`."""
    with safe_open(work / "unet-state.safetensors", "pt") as saved:
        ema = {k.removeprefix("ema."): saved.get_tensor(k) for k in saved.keys() if k.startswith("ema.")}  # noqa: SIM118
        step = saved.metadata()["step"]
    unet = make_unet()
    unet.load_state_dict({k.removeprefix("unet."): v for k, v in ema.items() if k.startswith("unet.")})
    small = make_text_encoder(len(vocabulary.used))
    small.load_state_dict({k.removeprefix("text."): v for k, v in ema.items() if k.startswith("text.")})
    for folder in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(out / folder, ignore_errors=True)
    write_tokenizer(out / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae-rescaled").half(),
        text_encoder=_whole_vocabulary(small, vocabulary, len(load_tokenizer(out / "tokenizer"))).half(),
        tokenizer=load_tokenizer(out / "tokenizer"),
        unet=unet.half(),
        scheduler=SCHEDULER,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    # The tokenizer as SD 1.x's folder has it: what transformers adds says the same again in 3.6 MB.
    shutil.rmtree(out / "tokenizer")
    write_tokenizer(out / "tokenizer")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"exported step {step} to {out}, {size / 1e6:.1f} MB", flush=True)


@torch.no_grad()
def _whole_vocabulary(small: CLIPTextModel, vocabulary: Vocabulary, tokens: int) -> CLIPTextModel:
    """The encoder with CLIP's 49,408 token rows; those that no caption used are zero, which packs to nothing."""
    whole = make_text_encoder(tokens)
    weights = small.state_dict()
    (rows,) = (key for key in weights if key.endswith("token_embedding.weight"))
    spread = torch.zeros(tokens, weights[rows].shape[1])
    spread[vocabulary.used] = weights[rows]
    whole.load_state_dict(weights | {rows: spread})
    return whole
