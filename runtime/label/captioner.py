"""Captions by a Transformers model that writes them: BLIP, BLIP-2, GIT, Florence-2, a Qwen-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from runtime.label.labeller import Describe

ASK = "Describe this picture in one sentence: its subject, medium, style, colours, light and composition."
"""What a model that chats is asked."""

TASKS = {"florence2": "<CAPTION>"}
"""model_type -> the task that its paper gives captions by (Xiao et al. 2024, Florence-2)."""

TOKENS = 64
"""Of a caption at most: CLIP reads 77, and trigger and prefix come before it."""


def captioner(model: str) -> Describe:
    """What describes pictures, a caption each. Raises what Transformers does for a model that cannot be loaded."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor: Any = AutoProcessor.from_pretrained(model)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True)
    loaded = loaded.to(device).eval()

    if not loaded.config.is_encoder_decoder and hasattr(processor, "tokenizer"):
        processor.tokenizer.padding_side = "left"  # what is generated goes on at the right

    @torch.inference_mode()
    def describe(pictures: Sequence[Image]) -> list[list[str]]:
        inputs = _inputs(processor, loaded.config.model_type, pictures).to(device)
        tokens = loaded.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        if not loaded.config.is_encoder_decoder and "input_ids" in inputs:
            asked = inputs["input_ids"]
            if torch.equal(tokens[:, : asked.shape[1]], asked):
                tokens = tokens[:, asked.shape[1] :]
        said = processor.batch_decode(tokens, skip_special_tokens=True)
        return [[" ".join(text.split()).rstrip(".")] for text in said]

    return describe


def _inputs(processor: Any, model_type: str, pictures: Sequence[Image]) -> Any:
    images = list(pictures)
    if model_type in TASKS:
        return processor(text=[TASKS[model_type]] * len(images), images=images, return_tensors="pt")
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": ASK}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return processor(
            text=[text] * len(images), images=[[image] for image in images], padding=True, return_tensors="pt"
        )
    return processor(images=images, return_tensors="pt")
