"""diffusers' text-to-image LoRA recipe: `python -m tests.bench.images.diffusers_run TASK RESULT`.

Written anew from its documentation (huggingface.co/docs/diffusers/training/lora, train_text_to_image_lora.py): peft's
LoRA on the UNet's attention, accelerate for precision and accumulation, AdamW, a constant rate. Its loader reads the
picture files anew each epoch, and each step encodes pictures with the VAE and captions with the text encoder.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from tests.bench.clock import Clock
from tests.bench.images import measure
from tests.bench.images.pictures import captions, pixels
from tests.bench.images.setting import Setting, Task

FILE = "pytorch_lora_weights.safetensors"


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Each picture with its caption's tokens, which are made once."""

    def __init__(self, setting: Setting, tokenizer: CLIPTokenizer) -> None:
        self.folder, self.resolution = Path(setting.train), setting.resolution
        named = captions(self.folder)
        self.names = list(named)
        self.tokens = tokenizer(
            list(named.values()),
            max_length=tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        return pixels(self.folder / self.names[at], self.resolution, random.random() < 0.5), self.tokens[at]


def collate(rows: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    pictures, tokens = zip(*rows, strict=True)
    return {"pixel_values": torch.stack(pictures), "input_ids": torch.stack(tokens)}


def run(task: Task) -> measure.Result:
    with tempfile.TemporaryDirectory(prefix="diffusers-bench-") as name:
        clock, files = train(task, Path(name))
        return measure.result(task, clock, files)


def train(task: Task, folder: Path) -> tuple[Clock, dict[int, Path]]:
    """The training itself. What was timed, and the LoRA's file by step."""
    setting, way = task.setting, task.way
    clock = Clock()
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=setting.batch // way.micro_batch,
        mixed_precision="bf16" if way.dtype == "bfloat16" else "no",
        project_dir=str(folder),
    )
    set_seed(setting.seed)
    dtype = torch.bfloat16 if way.dtype == "bfloat16" else torch.float32
    base = Path(setting.base)
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    frozen: dict[str, Any] = {
        "text_encoder": CLIPTextModel.from_pretrained(base, subfolder="text_encoder"),
        "vae": AutoencoderKL.from_pretrained(base, subfolder="vae"),
        "unet": UNet2DConditionModel.from_pretrained(base, subfolder="unet"),
    }
    for module in frozen.values():
        module.requires_grad_(False).to(dtype=dtype)
    unet = frozen["unet"]
    unet.add_adapter(
        LoraConfig(
            r=setting.rank,
            lora_alpha=setting.rank,
            init_lora_weights="gaussian",
            target_modules=["to_k", "to_q", "to_v", "to_out.0"],
        )
    )
    if way.recompute:
        unet.enable_gradient_checkpointing()
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=setting.learning_rate, weight_decay=setting.weight_decay)
    loader = DataLoader(
        Pictures(setting, tokenizer), shuffle=True, collate_fn=collate, batch_size=way.micro_batch
    )
    schedule = get_scheduler("constant", optimizer=optimizer)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)

    files: dict[int, Path] = {}
    unet.train()
    while len(clock.ends) < setting.steps:
        loss_of_step = 0.0
        for batch in loader:
            clock.step_begins()
            with accelerator.accumulate(unet):
                loss = of_batch(batch, unet, frozen, scheduler, dtype)
                share = accelerator.gather(loss.repeat(way.micro_batch)).mean()
                loss_of_step += share.item() / accelerator.gradient_accumulation_steps
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(trained, setting.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            clock.step_ends()
            clock.losses.append(loss_of_step)
            loss_of_step = 0.0
            step = len(clock.ends)
            if step == setting.steps or (setting.every and step % setting.every == 0):
                files[step] = save(accelerator, unet, folder / f"checkpoint-{step}")
            if step == setting.steps:
                break
    clock.training_ends()
    return clock, files


def of_batch(
    batch: dict[str, Tensor], unet: Any, frozen: dict[str, Any], scheduler: DDPMScheduler, dtype: torch.dtype
) -> Tensor:
    """The mean squared error of the predicted noise: pictures and captions are encoded here, each time."""
    latents = frozen["vae"].encode(batch["pixel_values"].to(dtype)).latent_dist.sample()
    latents = latents * frozen["vae"].config.scaling_factor
    noise = torch.randn_like(latents)
    times = torch.randint(scheduler.config.num_train_timesteps, (len(latents),))
    noisy = scheduler.add_noise(latents, noise, times)
    text = frozen["text_encoder"](batch["input_ids"], return_dict=False)[0]
    said = unet(noisy, times, text, return_dict=False)[0]
    return F.mse_loss(said.float(), noise.float(), reduction="mean")


def save(accelerator: Accelerator, unet: Any, folder: Path) -> Path:
    """The recipe's checkpoint: accelerate's state, and the LoRA's file beside it."""
    accelerator.save_state(str(folder))
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(accelerator.unwrap_model(unet)))
    StableDiffusionPipeline.save_lora_weights(
        save_directory=str(folder), unet_lora_layers=weights, safe_serialization=True
    )
    return folder / FILE


if __name__ == "__main__":
    measure.main(run)
