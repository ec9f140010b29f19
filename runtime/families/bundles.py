"""One file with everything, as Stability AI and ComfyUI bundle a transformer with its text encoders and autoencoder.

| component | names begin with |
| --- | --- |
| transformer | `model.diffusion_model.` |
| CLIP-L, CLIP-G, T5-XXL | `text_encoders.clip_l.transformer.`, `….clip_g.transformer.`, `….t5xxl.transformer.` |
| autoencoder | `first_stage_model.` or `vae.` |

In a file of its own a component has the same names without that: what tells where a component's names begin takes
either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from runtime.errors import InputError, Problem
from runtime.families import autoencoder, ldm
from runtime.families.parts import Part, within
from runtime.families.protocol import Shapes

DENOISER = "model.diffusion_model."
CLIP_L = "text_encoders.clip_l.transformer."
CLIP_G = "text_encoders.clip_g.transformer."
T5 = "text_encoders.t5xxl.transformer."
VAES = (ldm.VAE, "vae.")

VAE_PUBLISHED: dict[str, Any] = {**autoencoder.PUBLISHED, "latent_channels": 16}
"""The autoencoder of 16 channels that Flux.1 and Stable Diffusion 3 have, without what names and shapes cannot say."""

VAE_FIXED: dict[str, Any] = {"norm_num_groups": 32, "use_quant_conv": False, "use_post_quant_conv": False}

_W = TypeVar("_W")


CLIP_NAMES = ("text_model.embeddings.token_embedding.weight",)
T5_PART = Part("T5-XXL", (T5,), ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",))
VAE_PART = Part("the VAE", VAES, ("encoder.down.0.block.0.conv2.weight",))
"""Of those that are AutoencoderKL, in CompVis' names."""


def denoiser(names: Iterable[str]) -> str:
    """What the transformer's names begin with."""
    return within(names, DENOISER)


def count(shapes: Iterable[str], stem: str) -> int:
    """How many blocks a list of them has, whose names begin with `stem`."""
    return len({name.removeprefix(stem).partition(".")[0] for name in shapes if name.startswith(stem)})


def require(shapes: Iterable[str], title: str, components: Mapping[str, tuple[str, ...]]) -> None:
    """Raise InputError where a file lacks some of these, which no other file brings; each by what its names may begin
    with."""
    missing = [one for one, prefixes in components.items() if not within(shapes, *prefixes)]
    if missing:
        hint = "give the folder that it lies in at its publisher's, in diffusers' layout: it has model_index.json"
        raise InputError(Problem("base", f"is a {title} file without {', '.join(missing)}", hint))


def vae_config(shapes: Shapes, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """AutoencoderKL's config; `fixed` is what names and shapes cannot say."""
    return ldm.vae_config(_under(shapes, within(shapes, *VAES), ldm.VAE), {**VAE_FIXED, **fixed})


def vae_weights(
    names: list[str], load: Callable[[str], Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    theirs = _under({name: name for name in names}, within(names, *VAES), ldm.VAE)
    return ldm.vae_weights(list(theirs), lambda name: load(theirs[name]), config)


def clip_weights(
    names: Iterable[str], load: Callable[[str], _W], prefix: str, level: str = "text_model."
) -> dict[str, _W]:
    """A CLIP text tower's weights; `level` is taken off their names: transformers >= 5.6 has it only in the tower with
    a projection."""
    return {
        name.removeprefix(prefix).removeprefix(level): load(name)
        for name in names
        if name.startswith(prefix) and not name.endswith("position_ids")
    }


def _under(named: Mapping[str, _W], prefix: str, other: str) -> dict[str, _W]:
    """What is named below `prefix`, below another one."""
    return {other + name.removeprefix(prefix): one for name, one in named.items() if name.startswith(prefix)}
