"""PEFT's image benchmark: FLUX.2-klein-base-4B, LoRA and LoKr (huggingface/peft method_comparison/image-gen/run.py).

What its figure holds beside the step (bytes that the allocator reserved, on an L40S, over 750 steps):
- the embeddings of 14 prompts (20 less 2 and 4 held out), 512 tokens of 3 layers of 2560 numbers, kept on the card,
  their ids, and the latents of the 14 pictures;
- the DINOv2 encoder of its evaluation, in fp32, which `train` puts on the card before the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from diffusers import Flux2Transformer2DModel
from peft import LoKrConfig, LoraConfig, get_peft_model

from lorac.estimate.trace import materialize, trace
from tests.validate.case import Published, Result, judge

SOURCE = "huggingface/peft@5d602fd method_comparison/image-gen/results/"
TARGETS = (
    "to_k add_q_proj add_k_proj add_v_proj to_out.0 linear_out to_q to_qkv_mlp_proj to_add_out to_v linear_in"
)
BATCH, PICTURES, TOKENS, WIDTH, SIDE = 2, 14, 512, 7680, 32
DINO = 86_580_480
"""Parameters of facebook/dinov2-base."""

CASES = [
    (
        Published(
            name=f"peft FLUX.2-klein-base-4B {kind}",
            source=f"{SOURCE}{file}",
            gpu="L40S",
            capability=(8, 9),
            metric="reserved",
            bytes=measured,
            precision=1,
        ),
        kind,
    )
    for kind, file, measured in (
        ("lora", "lora--flux2-klein-default.json", 10_708_058_112),
        ("lokr", "lokr--flux2-klein-lr1e-3.json", 10_846_470_144),
    )
]


def results() -> list[Result]:
    found = []
    for published, kind in CASES:
        start = time.perf_counter()
        recorded = trace(maker(kind), capability=published.capability)
        found.append(judge(published, recorded, time.perf_counter() - start))
    return found


def adapted(kind: str) -> torch.nn.Module:
    """The transformer of the published configuration on the meta device, with the adapter put on by PEFT."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = Flux2Transformer2DModel(
            patch_size=1,
            in_channels=128,
            num_layers=5,
            num_single_layers=20,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=WIDTH,
            guidance_embeds=False,
        )
    torch.set_default_dtype(torch.float32)
    model.enable_gradient_checkpointing()
    targets = TARGETS.split()
    config = (
        LoraConfig(r=32, lora_alpha=32, target_modules=targets)
        if kind == "lora"
        else LoKrConfig(r=32, alpha=32, target_modules=targets, decompose_factor=-1)
    )
    with torch.device("meta"):
        return get_peft_model(model, config, autocast_adapter_dtype=True)  # type: ignore[no-any-return, arg-type]


def maker(kind: str) -> Callable[[], Callable[[], None]]:
    """The train step of run.py: gather the batch, add noise, predict, squared error, clip, AdamW."""

    def make() -> Callable[[], None]:
        model = adapted(kind).train()
        embeddings = torch.empty(PICTURES, TOKENS, WIDTH, dtype=torch.bfloat16)
        ids = torch.empty(PICTURES, TOKENS, 4, dtype=torch.int64)
        latents = torch.empty(PICTURES, 128, SIDE, SIDE, dtype=torch.bfloat16)
        evaluator = torch.empty(DINO)
        materialize(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
        area = SIDE * SIDE

        def step() -> None:
            assert evaluator is not None  # held for as long as the step is
            batch = torch.empty(BATCH, dtype=torch.int64)
            picture, prompt, text = (table.index_select(0, batch) for table in (latents, embeddings, ids))
            places = torch.empty(BATCH, area, 4, dtype=torch.int64)
            noise = torch.randn_like(picture)
            sigmas = torch.empty(BATCH, 1, 1, 1, dtype=torch.bfloat16)
            noisy = (1.0 - sigmas) * picture + sigmas * noise
            packed = noisy.reshape(BATCH, 128, area).permute(0, 2, 1)
            optimizer.zero_grad(set_to_none=True)
            predicted = model(
                hidden_states=packed,
                timestep=torch.empty(BATCH) / 1000,
                guidance=None,
                encoder_hidden_states=prompt,
                txt_ids=text,
                img_ids=places,
                return_dict=False,
            )[0][:, :area]
            unpacked = torch.stack([one.permute(1, 0).reshape(128, SIDE, SIDE).clone() for one in predicted])
            weighting, target = torch.ones_like(sigmas), noise - picture
            error = weighting.float() * (unpacked.float() - target.float()) ** 2
            torch.mean(error.reshape(BATCH, -1), 1).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        return step

    return make
