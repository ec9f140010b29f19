"""Pictures by diffusers' pipelines, which draw latents of what is already encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image
from torch import Generator, Tensor

from runtime.families.protocol import Wish


def latents(pipeline: Any, wish: Wish, text: Mapping[str, Tensor], **told: Any) -> Tensor:
    """What a pipeline draws for each of the wish's seeds.

    `text`: the pipeline's names for what is encoded of the prompts -> that, (1, …); `told`: what else it takes.
    """
    pipeline.set_progress_bar_config(disable=True)
    count = len(wish.seeds)
    drawn: Tensor = pipeline(
        **{name: tensor.repeat(count, *(1,) * (tensor.dim() - 1)) for name, tensor in text.items()},
        **told,
        num_inference_steps=wish.steps,
        width=wish.width,
        height=wish.height,
        generator=[Generator("cpu").manual_seed(seed) for seed in wish.seeds],
        output_type="latent",
    ).images
    return drawn


def with_and_without(hidden: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    """`text` of the pipelines that read words and a summary of them, encoded of the prompt and the negative one."""
    return {
        "prompt_embeds": hidden[:1],
        "negative_prompt_embeds": hidden[1:],
        "pooled_prompt_embeds": pooled[:1],
        "negative_pooled_prompt_embeds": pooled[1:],
    }


def pictures(pipeline: Any, pixels: Tensor) -> list[Image]:
    """Pixels (N, 3, H, W) in about [-1, 1] as pictures."""
    made: list[Image] = pipeline.image_processor.postprocess(pixels.float(), output_type="pil")
    return made
