"""The embedded base is what it claims: SD 1.x's topology, CLIP's tokenizer, small, and loadable as it lies there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from open_clip.tokenizer import SimpleTokenizer

BASE = Path(__file__).parents[2] / "specs" / "emoji" / "base"
MAX_BYTES = 40_000_000


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32)


def expected_targets() -> set[str]:
    """SD 1.x's 192 linear layers and 1x1 convolutions of the attention blocks, as kohya's LoRA names list them."""
    places = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
    places += ["mid_block.attentions.0"]
    places += [f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)]
    attention = [f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")]
    inner = [f"transformer_blocks.0.{name}" for name in (*attention, "ff.net.0.proj", "ff.net.2")]
    return {f"{place}.{name}" for place in places for name in ("proj_in", "proj_out", *inner)}


def test_the_unet_has_exactly_the_lora_targets_of_sd1(pipeline: StableDiffusionPipeline) -> None:
    found = {
        name
        for name, module in pipeline.unet.named_modules()
        if ".attentions." in f".{name}" and isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert len(found) == 192
    assert found == expected_targets()


def test_proj_in_is_a_convolution_as_in_sd1(pipeline: StableDiffusionPipeline) -> None:
    assert isinstance(pipeline.unet.down_blocks[0].attentions[0].proj_in, torch.nn.Conv2d)


def test_the_text_encoder_is_a_clip_with_all_its_rows(pipeline: StableDiffusionPipeline) -> None:
    config = pipeline.text_encoder.config
    assert (config.vocab_size, config.max_position_embeddings, config.hidden_act) == (49408, 77, "quick_gelu")
    assert config.hidden_size // config.num_attention_heads == 64
    assert config.hidden_size == pipeline.unet.config.cross_attention_dim


def test_the_scheduler_and_the_latent_scale_are_sd1s(pipeline: StableDiffusionPipeline) -> None:
    config = pipeline.scheduler.config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (config.prediction_type, config.steps_offset, config.set_alpha_to_one) == ("epsilon", 1, False)
    assert pipeline.vae.config.scaling_factor == 0.18215


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "cat face, animal",
        "cat face, animal, twemoji style",
        "A  Photo of 3 naïve cats' hats!! 100%",
        "t rex é",
    ],
)
def test_the_tokenizer_gives_clips_own_ids_padded_with_the_end_token(
    pipeline: StableDiffusionPipeline, prompt: str
) -> None:
    ids = pipeline.tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids
    wanted = [49406, *SimpleTokenizer().encode(prompt), 49407]
    assert ids == wanted + [49407] * (77 - len(wanted))


def test_no_weight_is_anything_but_finite(pipeline: StableDiffusionPipeline) -> None:
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert all(torch.isfinite(tensor).all() for tensor in part.state_dict().values())


def test_a_picture_comes_out_and_the_prompt_matters(pipeline: StableDiffusionPipeline) -> None:
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompt: str) -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        picture = pipeline(
            prompt,
            height=64,
            width=64,
            num_inference_steps=4,
            guidance_scale=4,
            generator=seed,
            output_type="pt",
        )
        return picture.images[0]

    heart, apple = draw("purple heart, heart"), draw("green apple, fruit")
    assert heart.shape == (3, 64, 64)
    assert (heart - apple).abs().mean() > 0.02


def test_the_folder_is_at_most_40_mb_and_safetensors_only() -> None:
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert not [
        path.name for path in files if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack"}
    ]


def test_the_folder_carries_its_licence_and_its_card() -> None:
    licence, card = ((BASE / name).read_text(encoding="utf-8") for name in ("LICENSE", "README.md"))
    for owner in ("Noto Emoji", "Apache", "Twemoji", "CC-BY 4.0"):
        assert owner in licence and owner in card
    assert json.loads((BASE / "model_index.json").read_text(encoding="utf-8"))["safety_checker"] == [
        None,
        None,
    ]
