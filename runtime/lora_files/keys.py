"""The keys of LoRA files: whose naming style a key is of, which module it is for, and which part of it.

The suffixes are those that the consumers' own loaders look for (facts/outputs.md 1.1: A1111 1.10.1, ComfyUI 0.3.64,
sd-scripts 48d368fa, diffusers 0.42.1, LyCORIS 4.1.3, PEFT 0.21.2). Imports nothing heavy.
"""

from __future__ import annotations

import re
from typing import Literal

import attrs

Style = Literal["kohya", "diffusers", "peft", "diffusers, old", "ComfyUI", "other"]
Method = Literal["LoRA", "LoHa", "LoKr", "DoRA", "OFT", "GLoRA", "difference"]

PEFT_PREFIX = "base_model.model."
CLIP_LEVEL = "text_model."
"""The level of CLIP's module paths that files have and transformers >= 5.6 has not."""

WHOLE = "model"
"""The component of an adapter that is for one model and not for a part of a pipeline."""

SUFFIXES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A": "down",
    ".lora_B": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_embedding_A": "embedding_down",
    ".lora_embedding_B": "embedding_up",
    ".alpha": "alpha",
    ".scale": "scale",
    ".dora_scale": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    **{
        f".{part}": part
        for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
    },
    **{
        f".{part}": part
        for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
    },
    ".lokr_t2": "lokr_t2",
    ".oft_blocks": "oft",
    ".oft_diag": "oft",
    **{f".{part}.weight": part for part in ("a1", "a2", "b1", "b2")},
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".set_weight": "diff",
    ".w_norm": "diff",
    ".b_norm": "diff_b",
}
"""How a key ends -> the part it holds, by names of our own."""

LONGEST = 120
"""Characters; the names of SD's modules have up to 90."""

_LONGEST_FIRST = sorted(SUFFIXES, key=len, reverse=True)
_OLD = (
    "_lora.down.weight",
    "_lora.up.weight",
    ".lora.down.weight",
    ".lora.up.weight",
    ".lora_linear_layer.down.weight",
    ".lora_linear_layer.up.weight",
)
_PIPELINE = re.compile(r"(unet|transformer|transformer_2|text_encoder|text_encoder_[23]|prior)\.")
_KOHYA = re.compile(r"(lora|lycoris)_(unet|transformer|prior|te[123]?)?_?")
_KOHYA_COMPONENTS = {
    "te": "text_encoder",
    "te1": "text_encoder",
    "te2": "text_encoder_2",
    "te3": "text_encoder_3",
    "transformer": "transformer",
    "prior": "prior",
}


def is_matrix(part: str) -> bool:
    """Whether a part is a factor of a change: of two dimensions at least."""
    return part in ("down", "up", "mid", "embedding_down", "embedding_up") or part.startswith(
        ("hada_", "lokr_")
    )


def is_whole(key: str) -> bool:
    """Whether a key that is of no update is a module's own weight or bias, which PEFT puts in the base's place: of
    `modules_to_save`, or of embeddings that it saves beside (`peft.utils.save_and_load`, 0.21.2)."""
    return key.startswith(PEFT_PREFIX) and key.endswith((".weight", ".bias")) and split(key) is None


@attrs.frozen
class Key:
    """`prefix + suffix` is the key as the file has it."""

    prefix: str
    suffix: str

    @property
    def part(self) -> str:
        return SUFFIXES[self.suffix]

    @property
    def style(self) -> Style:
        if self.prefix.startswith(PEFT_PREFIX):
            return "peft"
        if "." not in self.prefix:
            return "kohya" if _KOHYA.match(self.prefix) else "other"
        if _PIPELINE.match(self.prefix):
            return "diffusers, old" if self.suffix in _OLD or ".processor" in self.prefix else "diffusers"
        return "ComfyUI" if self.prefix.startswith(("diffusion_model.", "text_encoders.")) else "other"

    @property
    def component(self) -> str:
        """The network that the module is in, by diffusers' name, as far as the key says; else "model"."""
        if pipeline := _PIPELINE.match(self.prefix):
            return pipeline[1]
        if self.style == "kohya":
            kohya = _KOHYA.match(self.prefix)
            return _KOHYA_COMPONENTS.get(kohya[2] if kohya else "", "unet")
        if self.style == "ComfyUI":
            return "unet" if self.prefix.startswith("diffusion_model.") else self.prefix.split(".")[1]
        return WHOLE


def split(key: str) -> Key | None:
    """A key's prefix and suffix; None where it ends in no way that an adapter's keys do."""
    suffix = next((suffix for suffix in _LONGEST_FIRST if key.endswith(suffix)), None)
    return Key(key.removesuffix(suffix), suffix) if suffix and len(key) > len(suffix) else None


def brief(name: str) -> str:
    """A key as messages show it: whole, or its ends, which tell the most."""
    return name if len(name) <= LONGEST else f"{name[:60]}...{name[-57:]}"


def method(parts: set[str]) -> Method:
    """What a module's parts make it."""
    if "magnitude" in parts:
        return "DoRA"
    for name, start in (("LoHa", "hada_"), ("LoKr", "lokr_"), ("OFT", "oft"), ("difference", "diff")):
        if any(part.startswith(start) for part in parts):
            return name  # type: ignore[return-value]  # the names are Method's
    return "GLoRA" if parts & {"a1", "a2", "b1", "b2"} else "LoRA"


def pipeline_module(prefix: str, suffix: str) -> tuple[str, str]:
    """(component, module path) of a key in one of diffusers' styles, the old ones told as the module is called now.

    Until 0.20 attention processors had the weights: `attn1.processor.to_out_lora` is for `attn1.to_out.0`.
    """
    component, _, module = prefix.partition(".")
    if suffix in _OLD:
        module = module.replace(".processor.", ".")
        if component.startswith("text_encoder"):
            module = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", module)
        module = re.sub(r"\.to_out$", ".to_out.0", module)
    return component, module
