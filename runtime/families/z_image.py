"""Z-Image (Tongyi-MAI 2025): one stream of picture and caption tokens, Qwen3-4B's text, Flux.1's autoencoder.

Taken up because five of the eight trainers looked at train it (facts/peers.md) and it is the smallest of today's large
models: 6.2 billion parameters. The conventions are those of diffusers' `ZImagePipeline`: time runs from noise at 0 to
the picture at 1, and what the transformer says is the direction to the picture, both the reverse of `flow`'s.

Published in two: Z-Image, which is for training, and Z-Image-Turbo, distilled to 8 steps without guidance, which
training undoes. They differ in weights and in the scheduler's shift alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from PIL.Image import Image
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from runtime import plan
from runtime.families import (
    autoencoder,
    bundles,
    drawing,
    flow,
    fused,
    loading,
    patches,
    qwen,
    tokenizing,
    usual,
)
from runtime.families import objective as objectives
from runtime.families import tiny as tiny_parts
from runtime.families.causal_lm import byte_tokenizer
from runtime.families.parts import Part, configs, within
from runtime.families.protocol import Architecture, Batch, Modules, Original, Shapes, Wish

NAME = "z_image"
TITLE = "Z-Image"
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
GRID = 64
CAPTION_TOKENS = 512
"""`max_sequence_length` of the pipeline, the chat template's tokens included."""
# musubi-tuner's docs/zimage.md: `--timestep_sampling shift --discrete_flow_shift 2.0`, its "shift" being logit-normal.
OBJECTIVE = {"timesteps": "logit_normal", "timestep_shift": 2.0}
SAMPLING = {"steps": 28, "guidance": 4.0}
"""Of Z-Image's model card; Turbo takes 8 and 0."""
CFG = True

PRESETS = {
    "qkvo+ff": r"layers\.\d+\.(attention\.to_([qkv]|out\.0)|feed_forward\.w[123])",
    "qkvo": r"layers\.\d+\.attention\.to_([qkv]|out\.0)",
    "qkv": r"layers\.\d+\.attention\.to_[qkv]",
}
"""The refiners before the layers are left alone, as musubi-tuner's `lora_zimage` leaves them."""

TEXT_FILE = "text_encoders.qwen3_4b.transformer."
TEXT = f"{TEXT_FILE}model."
PARTS: dict[str, Part] = {
    "text_encoder": Part("Qwen3-4B", (TEXT_FILE,), ("model.layers.0.self_attn.q_norm.weight",)),
    "vae": bundles.VAE_PART,
}
VAE_FIXED: dict[str, Any] = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "sample_size": 1024}
PAD_TOKENS = ("x_pad_token", "cap_pad_token")

BLOCK = {
    "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.out": ("attention.to_out.0",),
    "attention.q_norm": ("attention.norm_q",),
    "attention.k_norm": ("attention.norm_k",),
    **{
        name: (name,)
        for name in (
            *("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2", "adaLN_modulation.0"),
            *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
        )
    },
}
LISTS = ("noise_refiner", "context_refiner", "layers")
"""The lists of blocks, in the order of the forward pass."""

LAYOUT = fused.Layout(
    around={
        "x_embedder": ("all_x_embedder.2-1",),
        "final_layer.linear": ("all_final_layer.2-1.linear",),
        "final_layer.adaLN_modulation.1": ("all_final_layer.2-1.adaLN_modulation.1",),
        **{
            name: (name,)
            for name in ("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.0", "cap_embedder.1")
        },
    },
    blocks={name: (name, BLOCK) for name in LISTS},
)


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    prefix = bundles.denoiser(shapes)
    return {f"{prefix}cap_pad_token", f"{prefix}layers.0.attention.qkv.weight"} <= shapes.keys()


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    # Z-Image-Omni's transformer also reads pictures, by a SigLIP that the pipeline for text has not.
    reads_pictures = configs.get("transformer", {}).get("siglip_feat_dim") is not None
    return index.get("transformer", [None, None])[1] == "ZImageTransformer2DModel" and not reads_pictures


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    return {
        "transformer": {
            "all_patch_size": [patches.SIDE],
            "all_f_patch_size": [1],
            "in_channels": 16,
            "dim": 3840,
            "n_layers": 30,
            "n_refiner_layers": 2,
            "n_heads": 30,
            "n_kv_heads": 30,
            "norm_eps": 1e-5,
            "qk_norm": True,
            "cap_feat_dim": 2560,
            "rope_theta": 256.0,
            "t_scale": 1000.0,
            "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
        },
        "text_encoder": {
            "vocab_size": 151936,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "rms_norm_eps": 1e-06,
            "tie_word_embeddings": True,
        },
        "vae": {**bundles.VAE_PUBLISHED, **bundles.VAE_FIXED, **VAE_FIXED},
        "scheduler": {"num_train_timesteps": 1000, "shift": 6.0, "use_dynamic_shifting": False},
    }


def architecture(shapes: Shapes) -> Architecture:
    return {
        "transformer": _transformer(shapes),
        **configs(
            PARTS,
            shapes,
            {
                "text_encoder": lambda: _text_encoder(shapes),
                "vae": lambda: bundles.vae_config(shapes, VAE_FIXED),
            },
        ),
        "scheduler": published()["scheduler"],
    }


def _transformer(shapes: Shapes) -> dict[str, Any]:
    prefix = bundles.denoiser(shapes)
    dim, patch = shapes[f"{prefix}x_embedder.weight"]
    (head,) = shapes[f"{prefix}layers.0.attention.q_norm.weight"]
    return {
        **published()["transformer"],
        "in_channels": patch // patches.SIDE**2,
        "dim": dim,
        "n_layers": bundles.count(shapes, f"{prefix}layers."),
        "n_refiner_layers": bundles.count(shapes, f"{prefix}noise_refiner."),
        "n_heads": dim // head,
        "n_kv_heads": dim // head,
        "cap_feat_dim": shapes[f"{prefix}cap_embedder.1.weight"][1],
        "axes_dims": [head // 4, head // 8 * 3, head // 8 * 3],  # the published 32, 48, 48 of 128
    }


def _text_encoder(shapes: Shapes) -> dict[str, Any]:
    vocabulary, width = shapes[f"{TEXT}embed_tokens.weight"]
    first = f"{TEXT}layers.0."
    (head,) = shapes[f"{first}self_attn.q_norm.weight"]
    return {
        **published()["text_encoder"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{first}mlp.gate_proj.weight"][0],
        "num_hidden_layers": bundles.count(shapes, f"{TEXT}layers."),
        "num_attention_heads": shapes[f"{first}self_attn.q_proj.weight"][0] // head,
        "num_key_value_heads": shapes[f"{first}self_attn.k_proj.weight"][0] // head,
        "head_dim": head,
    }


prediction_type = flow.prediction_type


# ---------------------------------------------------------------------------------------------- building and loading

KINDS: dict[str, Any] = {
    "transformer": ZImageTransformer2DModel,
    "text_encoder": Qwen3Model,
    "vae": AutoencoderKL,
}


def build(architecture: Architecture, component: str) -> Any:
    config = architecture[component]
    if component == "text_encoder":
        return Qwen3Model(Qwen3Config(**config))
    return KINDS[component].from_config(config)


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    return loading.load(path, base, component, dtype, KINDS, build, _weights, TITLE)


def _weights(
    architecture: Architecture, component: str, names: list[str], read: loading.Read
) -> dict[str, Tensor]:
    """A component's weights in a single file."""
    config = architecture[component]
    if component == "transformer":
        prefix = bundles.denoiser(names)
        pads = {name: read(prefix + name) for name in PAD_TOKENS}
        return fused.weights(LAYOUT, names, read, prefix, config["dim"]) | pads
    if component == "vae":
        return bundles.vae_weights(names, read, config)
    prefix = f"{within(names, TEXT_FILE)}model."
    return {name.removeprefix(prefix): read(name) for name in names if name.startswith(prefix)}


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    return {
        "transformer": fused.original(
            LAYOUT, names, bundles.denoiser(names), architecture["transformer"]["dim"]
        ),
        "text_encoder": {name.removeprefix(TEXT): name for name in names if name.startswith(TEXT)},
    }


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {"text_encoder": qwen.tokenizer(path)}


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    return {BACKBONE: usual.pattern(PRESETS, preset)}


def blocks(modules: Modules) -> dict[str, nn.Module]:
    return usual.listed(modules, "text_encoder.layers", *(f"transformer.{name}" for name in LISTS))


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    vocabulary = tokenizers["text_encoder"]
    return qwen.tokenize(vocabulary, _asked(vocabulary, captions), CAPTION_TOKENS)


def caption_tokens(tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
    vocabulary = tokenizers["text_encoder"]
    return tokenizing.counts(vocabulary, _asked(vocabulary, captions))


def _asked(vocabulary: Any, captions: Sequence[str]) -> list[str]:
    """Captions as the pipeline asks them of Qwen3: a user's turn, the assistant's about to begin."""
    ways = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
    turns = [[{"role": "user", "content": caption}] for caption in captions]
    return [vocabulary.apply_chat_template(turn, **ways) for turn in turns]


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    """The last layer's input, (N, tokens, width); `mask` tells the caption's tokens from what fills up."""
    ids = tokens["tokens"]
    said = modules["text_encoder"](
        input_ids=ids, attention_mask=qwen.causal(ids), output_hidden_states=True, use_cache=False
    )
    return {"hidden": said.hidden_states[-2], "mask": tokens["mask"]}


encode_picture = autoencoder.encode_picture
decode = autoencoder.decode
conditions = usual.conditions
draw = flow.draw


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    words = {"tokens": torch.zeros(size, CAPTION_TOKENS, dtype=torch.long)}
    wide = architecture["text_encoder"]["hidden_size"]
    said = {"hidden": torch.empty(size, CAPTION_TOKENS, wide, dtype=torch.bfloat16)}
    return {
        **autoencoder.example(architecture["vae"], size, shape),
        "sigma": torch.empty(size),
        "mask": torch.ones(size, CAPTION_TOKENS, dtype=torch.bool),
        **(words if tokens else said),
    }


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    transformer = modules["transformer"]
    latents = flow.scaled(autoencoder.drawn(batch), base.architecture["vae"])
    given = flow.noisy(latents, batch["noise"], batch["sigma"]).to(transformer.dtype).unsqueeze(2)
    texts = _own(batch["hidden"].to(transformer.dtype), batch["mask"])
    said = transformer(list(given), 1 - batch["sigma"], texts).sample
    towards_noise = -torch.stack(said).squeeze(2)
    return objectives.error(towards_noise, flow.target(latents, batch["noise"]), batch, objective)


def _own(hidden: Tensor, mask: Tensor) -> list[Tensor]:
    """Each caption's own tokens, (its tokens, width)."""
    return [one[own.bool()] for one, own in zip(hidden, mask, strict=True)]


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    """Guidance is the pipeline's number: 4 means 1 + 4 times what the prompt changes. Up to 1 it is off."""
    transformer = modules["transformer"]
    pipeline: Any = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(base.architecture["scheduler"]),
        vae=modules["vae"],
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    tokens = tokenize(tokenizers, [wish.prompt, wish.negative_prompt])
    said = encode_text(modules, {name: tensor.to(transformer.device) for name, tensor in tokens.items()})
    prompt, negative = _own(said["hidden"].to(transformer.dtype), said["mask"])
    latents = drawing.latents(
        pipeline,
        wish,
        {},
        prompt_embeds=[prompt] * len(wish.seeds),
        negative_prompt_embeds=[negative] * len(wish.seeds),
        guidance_scale=wish.guidance if wish.guidance > 1 else 0.0,
    )
    pixels = decode(modules, flow.unscaled(latents, base.architecture["vae"]))
    return drawing.pictures(pipeline, pixels)


# ----------------------------------------------------------------------------------------------------------- naming


export_name = usual.export_name  # ComfyUI maps diffusers' paths, and no kohya names but musubi's exist


def metadata(base: plan.Base) -> dict[str, str]:
    return {
        "ss_base_model_version": "z_image",
        "modelspec.architecture": "Z-Image/lora",
        "modelspec.implementation": "diffusers",
    }


# ------------------------------------------------------------------------------------------------------------- tiny


def tiny(folder: Path) -> Path:
    config = published()
    config["transformer"] |= {"dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    config["transformer"] |= {"cap_feat_dim": 32, "axes_dims": [8, 12, 12]}
    config["text_encoder"] |= qwen.TINY | {"head_dim": 8}
    config["vae"] |= tiny_parts.VAE
    tiny_parts.write(folder, config, build, COMPONENTS)
    byte_tokenizer().save_pretrained(folder / qwen.FOLDER)
    classes = {
        "transformer": "ZImageTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "Qwen3Model",
        "tokenizer": "PreTrainedTokenizerFast",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    tiny_parts.write_index(folder, "ZImagePipeline", classes, config["scheduler"])
    return folder
