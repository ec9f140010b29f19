"""Qwen-Image (Wu et al. 2025, arXiv:2508.02324): 60 blocks of two streams, Qwen2.5-VL's text, Wan's autoencoder.

Taken up because five of the eight trainers looked at train it (facts/peers.md): 20 billion parameters under a free
licence. The conventions are those of diffusers' `QwenImagePipeline`: a caption stands in a template whose own tokens
are dropped; latents have a mean and a width of their own for each channel.

The base is a diffusers folder, a file with everything, or the transformer's file with those of Qwen2.5-VL and of the
autoencoder (Comfy-Org's), with the vocabulary in `tokenizer/` beside it. An editing model's file has the same tensors
and is not told from it, but for those marked `__index_timestep_zero__`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope
from PIL.Image import Image
from torch import Generator, Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextModel

from runtime import plan
from runtime.errors import InputError, Problem
from runtime.families import (
    autoencoder,
    bundles,
    drawing,
    flow,
    loading,
    patches,
    qwen,
    qwen_vl,
    tokenizing,
    usual,
    wan_vae,
)
from runtime.families import objective as objectives
from runtime.families import tiny as tiny_parts
from runtime.families.causal_lm import byte_tokenizer
from runtime.families.parts import Part, configs, within
from runtime.families.protocol import Architecture, Batch, Modules, Original, Shapes, Wish
from runtime.safeio.tensors import shortened

NAME = "qwen_image"
TITLE = "Qwen-Image"
KIND = "images"
EXPORTS = ("webui", "diffusers")
COMPONENTS = ("transformer", "text_encoder", "vae")
BACKBONE = "transformer"
TEXT_ENCODERS = ("text_encoder",)
TRAINED_TEXT_ENCODERS: tuple[str, ...] = ()
WORD_FILES: dict[str, str] = {}
CLIP_SKIP = ""
STREAMED: dict[str, plan.Dtype] = {"text_encoder": "bf16"}
VAE = "vae"
BESIDE = (qwen.FOLDER,)
PARTS = {"text_encoder": qwen_vl.PART, "vae": Part("the VAE", bundles.VAES, wan_vae.KNOWN_BY)}
GRID = 64
CAPTION_TOKENS = 512
"""`max_sequence_length` of the pipeline; its template's end is among them, its beginning is not."""
# musubi-tuner's docs/qwen_image.md: `--timestep_sampling qwen_shift`, logit-normal and shifted as in sampling.
OBJECTIVE = {"timesteps": "logit_normal", "timestep_shift": 0.0}
SAMPLING = {"steps": 50, "guidance": 4.0}
CFG = True

ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
FEED_FORWARD = r"(img|txt)_mlp\.net\.(0\.proj|2)"
PRESETS = {
    "qkvo+ff": rf"transformer_blocks\.\d+\.({ATTENTION}|{FEED_FORWARD})",
    "qkvo": rf"transformer_blocks\.\d+\.{ATTENTION}",
    "qkv": r"transformer_blocks\.\d+\.attn\.(to_[qkv]|add_[qkv]_proj)",
}

BEGIN = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
END = "<|im_end|>\n<|im_start|>assistant\n"
"""The template of `QwenImagePipeline.prompt_template_encode`, around the caption."""
BEGIN_TOKENS = 34
"""Of BEGIN in Qwen's vocabulary (`prompt_template_encode_start_idx`)."""

# scheduler_config.json of Qwen/Qwen-Image.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}


# ------------------------------------------------------------------------------------------------------ recognising


OWN = re.compile(
    r"(img_in|txt_in|txt_norm|proj_out|norm_out\.linear|time_text_embed\.timestep_embedder\.linear_[12]"
    rf"|transformer_blocks\.\d+\.((img|txt)_mod\.1|attn\.norm_(added_)?[qk]|{ATTENTION}|{FEED_FORWARD}))"
    r"\.(weight|bias)"
)
"""The transformer's tensors; a relative has more."""


def recognise(shapes: Shapes) -> bool:
    prefix = bundles.denoiser(shapes)
    if not {f"{prefix}txt_norm.weight", f"{prefix}transformer_blocks.0.img_mod.1.weight"} <= shapes.keys():
        return False
    inner = (name.removeprefix(prefix) for name in shapes if name.startswith(prefix))
    others = sorted(name for name in inner if not OWN.fullmatch(name))
    if others:
        what = f"is a relative of {TITLE}: it also has {shortened(others[0])}"
        raise InputError(
            Problem("base", what, f"take {TITLE} itself, which makes pictures of captions alone")
        )
    return True


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    # The variants that edit pictures or layer them take more than a caption.
    transformer = configs.get("transformer", {})
    is_other = "processor" in index or transformer.get("use_layer3d_rope") or transformer.get("zero_cond_t")
    return index.get("transformer", [None, None])[1] == "QwenImageTransformer2DModel" and not is_other


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    return {
        "transformer": {
            "patch_size": 2,
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 60,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
            "axes_dims_rope": [16, 56, 56],
        },
        "text_encoder": {"text_config": dict(qwen_vl.PUBLISHED)},
        "vae": dict(wan_vae.PUBLISHED),
        "scheduler": dict(SCHEDULER),
    }


def architecture(shapes: Shapes) -> Architecture:
    return {
        "transformer": _transformer(shapes),
        **configs(
            PARTS,
            shapes,
            {
                "text_encoder": lambda: {"text_config": qwen_vl.config(shapes)},
                "vae": lambda: wan_vae.config(shapes, within(shapes, *bundles.VAES)),
            },
        ),
        "scheduler": dict(SCHEDULER),
    }


def _transformer(shapes: Shapes) -> dict[str, Any]:
    prefix = bundles.denoiser(shapes)
    width, channels = shapes[f"{prefix}img_in.weight"]
    (head,) = shapes[f"{prefix}transformer_blocks.0.attn.norm_q.weight"]
    return {
        **published()["transformer"],
        "in_channels": channels,
        "out_channels": shapes[f"{prefix}proj_out.weight"][0] // patches.SIDE**2,
        "num_layers": bundles.count(shapes, f"{prefix}transformer_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes[f"{prefix}txt_in.weight"][1],
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],  # the published 16, 56, 56 of 128
    }


prediction_type = flow.prediction_type


# ---------------------------------------------------------------------------------------------- building and loading


KINDS: dict[str, Any] = {
    "transformer": QwenImageTransformer2DModel,
    "text_encoder": Qwen2_5_VLTextModel,
    "vae": AutoencoderKLQwenImage,
}


def build(architecture: Architecture, component: str) -> Any:
    config = architecture[component]
    if component == "text_encoder":
        text: Any = Qwen2_5_VLConfig(**config).text_config
        return Qwen2_5_VLTextModel(text)
    if component == "vae":
        return AutoencoderKLQwenImage.from_config(config)
    model = QwenImageTransformer2DModel.from_config(config)
    with torch.device("cpu"):  # its table of positions is no buffer: on the meta device it would stay there
        axes = list(model.config.axes_dims_rope)
        model.pos_embed = QwenEmbedRope(theta=10000, axes_dim=axes, scale_rope=True)
    return model


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    if component == "text_encoder" and base.layout == "diffusers":
        # A caption takes neither the part that sees pictures nor the last layer.
        whole: Any = loading.from_folder(path, component, Qwen2_5_VLForConditionalGeneration, dtype)
        return whole.model.language_model
    return loading.load(path, base, component, dtype, KINDS, build, _weights, TITLE)


def _weights(
    architecture: Architecture, component: str, names: list[str], read: loading.Read
) -> dict[str, Tensor]:
    """A component's weights in a single file."""
    if component == "vae":
        return wan_vae.weights(names, read, within(names, *bundles.VAES), architecture["vae"])
    if component == "transformer":
        return {ours: read(name) for ours, name in _transformer_names(names).items()}
    return {ours: read(name) for ours, name in qwen_vl.names(names, within(names, qwen_vl.PREFIX)).items()}


def _transformer_names(names: Sequence[str]) -> dict[str, str]:
    """The transformer's name in diffusers -> in the file: the same, but for how they begin."""
    prefix = bundles.denoiser(names)
    mine = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    return {ours: name for ours, name in mine.items() if OWN.fullmatch(ours)}


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    return {"transformer": _transformer_names(names), "text_encoder": qwen_vl.names(names, qwen_vl.PREFIX)}


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {"text_encoder": qwen.tokenizer(path)}


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    return {BACKBONE: usual.pattern(PRESETS, preset)}


def blocks(modules: Modules) -> dict[str, nn.Module]:
    return usual.listed(modules, "text_encoder.layers", "transformer.transformer_blocks")


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    """`tokens` (N, the template's beginning and CAPTION_TOKENS), `mask` (N, CAPTION_TOKENS)."""
    vocabulary = tokenizers["text_encoder"]
    begin = _begin(vocabulary)
    found = qwen.tokenize(vocabulary, _asked(captions), begin + CAPTION_TOKENS)
    return {"tokens": found["tokens"], "mask": found["mask"][:, begin:]}


def caption_tokens(tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
    vocabulary = tokenizers["text_encoder"]
    return [count - _begin(vocabulary) for count in tokenizing.counts(vocabulary, _asked(captions))]


def _begin(vocabulary: Any) -> int:
    (count,) = tokenizing.counts(vocabulary, [BEGIN])
    return count


def _asked(captions: Sequence[str]) -> list[str]:
    return [f"{BEGIN}{caption}{END}" for caption in captions]


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    """What comes after the template's beginning, (N, tokens, width); `mask` tells what is the caption's own."""
    ids, mask = tokens["tokens"], tokens["mask"]
    said = modules["text_encoder"](input_ids=ids, attention_mask=qwen.causal(ids), use_cache=False)
    return {"hidden": said.last_hidden_state[:, ids.shape[1] - mask.shape[1] :], "mask": mask}


def encode_picture(modules: Modules, pixels: Tensor) -> Batch:
    posterior = modules["vae"].encode(pixels.unsqueeze(2)).latent_dist  # a film of one picture
    return {"latent_mean": posterior.mean.squeeze(2), "latent_std": posterior.std.squeeze(2)}


def decode(modules: Modules, latents: Tensor) -> Tensor:
    vae = modules["vae"]
    return vae.decode(latents.to(vae.dtype).unsqueeze(2)).sample.squeeze(2)


conditions = usual.conditions


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    width, height = shape
    vae = architecture["vae"]
    factor = 2 ** len(vae["temperal_downsample"])
    latent = torch.empty(size, vae["z_dim"], height // factor, width // factor)
    words = {"tokens": torch.zeros(size, BEGIN_TOKENS + CAPTION_TOKENS, dtype=torch.long)}
    wide = architecture["transformer"]["joint_attention_dim"]
    said = {"hidden": torch.empty(size, CAPTION_TOKENS, wide, dtype=torch.bfloat16)}
    return {
        **{name: torch.empty_like(latent) for name in ("latent_mean", "latent_std", "noise", "posterior")},
        "sigma": torch.empty(size),
        "mask": torch.ones(size, CAPTION_TOKENS, dtype=torch.bool),
        **(words if tokens else said),
    }


def draw(item: Batch, generator: Generator, objective: plan.Objective) -> Batch:
    return flow.draw(item, generator, objective, SCHEDULER)


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    latents = _scaled(autoencoder.drawn(batch), base.architecture["vae"])
    noise, sigma = batch["noise"], batch["sigma"]
    said = _denoise(modules["transformer"], flow.noisy(latents, noise, sigma), sigma, batch)
    return objectives.error(said, flow.target(latents, noise), batch, objective)


def _denoise(transformer: Any, latents: Tensor, sigma: Tensor, text: Batch) -> Tensor:
    """The direction that the transformer gives for latents (N, C, h, w) at times `sigma` (N,).

    As many tokens are looked at as the longest caption has. A single caption then needs no mask, without which
    attention takes less.
    """
    count = len(latents)
    rows, columns = (side // patches.SIDE for side in latents.shape[2:])
    mask = text["mask"].bool()
    used = mask.any(dim=0)
    said = transformer(
        hidden_states=patches.packed(latents).to(transformer.dtype),
        timestep=sigma,
        encoder_hidden_states=text["hidden"][:, used].to(transformer.dtype),
        encoder_hidden_states_mask=mask[:, used] if count > 1 else None,
        img_shapes=[[(1, rows, columns)]] * count,
    ).sample
    return patches.unpacked(said, rows, columns)


def _scaled(latents: Tensor, vae: dict[str, Any]) -> Tensor:
    """An autoencoder's latents as the denoiser knows them: each channel about its mean, at its width."""
    return (latents - _by_channel(vae["latents_mean"], latents)) / _by_channel(vae["latents_std"], latents)


def _unscaled(latents: Tensor, vae: dict[str, Any]) -> Tensor:
    """The way back from `_scaled`."""
    return latents * _by_channel(vae["latents_std"], latents) + _by_channel(vae["latents_mean"], latents)


def _by_channel(numbers: Sequence[float], latents: Tensor) -> Tensor:
    return torch.tensor(numbers, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1)


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    transformer = modules["transformer"]
    pipeline: Any = diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(base.architecture["scheduler"]),
        vae=modules["vae"],
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    given = {"prompt": wish.prompt} | ({"negative_prompt": wish.negative_prompt} if wish.guidance > 1 else {})
    words: dict[str, Tensor] = {}
    for name, text in given.items():
        tokens = {key: one.to(transformer.device) for key, one in tokenize(tokenizers, [text]).items()}
        said = encode_text(modules, tokens)
        own = said["hidden"][:, said["mask"][0]].to(transformer.dtype)
        words |= {
            f"{name}_embeds": own,
            f"{name}_embeds_mask": torch.ones_like(own[..., 0], dtype=torch.long),
        }
    packed = drawing.latents(pipeline, wish, words, true_cfg_scale=wish.guidance)
    side = pipeline.vae_scale_factor * patches.SIDE
    latents = patches.unpacked(packed.float(), wish.height // side, wish.width // side)
    pixels = decode(modules, _unscaled(latents, base.architecture["vae"]))
    return drawing.pictures(pipeline, pixels)


# ----------------------------------------------------------------------------------------------------------- naming


export_name = usual.export_name  # ComfyUI maps diffusers' paths, and no kohya names but musubi's exist


def metadata(base: plan.Base) -> dict[str, str]:
    return {
        "ss_base_model_version": "qwen_image",
        "modelspec.architecture": "Qwen-Image/lora",
        "modelspec.implementation": "diffusers",
    }


# ------------------------------------------------------------------------------------------------------------- tiny


def tiny(folder: Path) -> Path:
    config = published()
    config["transformer"] |= {"num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2}
    config["transformer"] |= {"joint_attention_dim": 2 * qwen_vl.HEAD_DIM, "axes_dims_rope": [4, 14, 14]}
    config["vae"] |= {"base_dim": 8, "num_res_blocks": 1}
    says = {
        "hidden_size": 2 * qwen_vl.HEAD_DIM,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": qwen_vl.PUBLISHED["rope_parameters"],
    }
    sees = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    sees |= {"out_hidden_size": says["hidden_size"]}
    words = Qwen2_5_VLConfig(text_config=qwen.TINY | says, vision_config=sees)
    tiny_parts.write(folder, config, build, ("transformer", "vae"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2_5_VLForConditionalGeneration(words).half().save_pretrained(folder / "text_encoder")
    byte_tokenizer().save_pretrained(folder / qwen.FOLDER)
    classes = {
        "transformer": "QwenImageTransformer2DModel",
        "vae": "AutoencoderKLQwenImage",
        "text_encoder": "Qwen2_5_VLForConditionalGeneration",
        "tokenizer": "PreTrainedTokenizerFast",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    tiny_parts.write_index(folder, "QwenImagePipeline", classes, config["scheduler"])
    return folder
