"""A diffusers folder of Qwen-Image written as one file with everything, as ComfyUI saves a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

BESIDE = ("tokenizer",)
APART = {
    "transformer": "model.diffusion_model.",
    "text_encoder": "text_encoders.qwen25_7b.transformer.",
    "vae": "vae.",
}

RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
AROUND = {
    "quant_conv": "conv1",
    "post_quant_conv": "conv2",
    "conv_in": "conv1",
    "norm_out": "head.0",
    "conv_out": "head.2",
    "mid_block.resnets.0": "middle.0",
    "mid_block.attentions.0": "middle.1",
    "mid_block.resnets.1": "middle.2",
}


def vae(folder: Path) -> dict[str, Tensor]:
    """The autoencoder's tensors under Wan's names: the decoder's blocks and samplers counted through."""
    ours = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    block = r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\."
    places = sorted({found.groups() for name in ours if (found := re.match(block, name))})
    return {wan_name(name, places): tensor for name, tensor in ours.items()}


def wan_name(name: str, places: list[tuple[str, ...]]) -> str:
    """`places`: (level, kind, number) of every block and sampler of the decoder, in their order."""
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return f"{AROUND[side]}.{rest}"
    for here, there in AROUND.items():
        if rest.startswith(f"{here}."):
            rest = there + rest.removeprefix(here)
    if found := re.match(r"up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)", rest):
        rest = f"upsamples.{places.index(found.groups())}{rest[found.end() :]}"
    rest = rest.replace("down_blocks.", "downsamples.").replace("conv_shortcut.", "shortcut.")
    in_block = r"(middle\.[02]|(?:down|up)samples\.\d+)\.(norm1|conv1|norm2|conv2)\."
    return f"{side}." + re.sub(in_block, lambda found: f"{found[1]}.{RESIDUAL[found[2]]}.", rest)


def original(folder: Path) -> dict[str, Tensor]:
    """Qwen2.5-VL's under the names of before transformers 4.52, as Comfy-Org's file has them."""
    ours = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    return {
        **{APART["transformer"] + name: tensor for name, tensor in ours.items()},
        **{APART["text_encoder"] + name: tensor for name, tensor in text.items()},
        **{APART["vae"] + name: tensor for name, tensor in vae(folder).items()},
    }
