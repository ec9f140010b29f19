"""The rules by which ComfyUI 0.3.64 (a125cd84) loads a LoRA into Stable Diffusion 1.x, written anew.

Rules of comfy/lora.py, comfy/utils.py `unet_to_diffusers`, comfy/weight_adapter/lora.py. No line is copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.consumers import compvis, lycoris
from tests.consumers.loaded import Bases, Changes, Loaded, product, read

STYLES = (
    ("{}.lora_up.weight", "{}.lora_down.weight"),
    ("{}_lora.up.weight", "{}_lora.down.weight"),
    ("{}.lora_B.weight", "{}.lora_A.weight"),
    ("{}.lora.up.weight", "{}.lora.down.weight"),
    ("{}.lora_B", "{}.lora_A"),
    ("{}.lora_linear_layer.up.weight", "{}.lora_linear_layer.down.weight"),
    ("{}.lora_B.default.weight", "{}.lora_A.default.weight"),
)
LYCORIS = (*lycoris.LOHA, *(f"lokr_{side}{end}" for side in ("w1", "w2") for end in ("", "_a", "_b")))


def names(architecture: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Every name that a file may give a module -> (component, module by diffusers' names)."""
    found: dict[str, tuple[str, str]] = {}
    for name, module in compvis.in_diffusers(architecture).items():
        target = ("unet", module)
        found[f"lora_unet_{name.replace('.', '_')}"] = target
        found[f"diffusion_model.{name}"] = target
        found[f"lora_unet_{module.replace('.', '_')}"] = target
        found[f"lycoris_{module.replace('.', '_')}"] = target
        old = re.sub(r"\.to_out\.0$", ".to_out", module).replace(".to_", ".processor.to_")
        found[old] = found[f"unet.{old}"] = target
    for component, (flat, own) in _towers(architecture).items():
        for name in compvis.text_encoder(architecture[component]["num_hidden_layers"]):
            inner = name if component == "text_encoder_2" else name.removeprefix("text_model.")
            for prefix in flat:
                found[f"{prefix}_{name.replace('.', '_')}"] = (component, inner)
            found[f"{component}.{name}"] = (component, inner)
            found[f"text_encoders.{own}.transformer.{name}"] = (component, inner)
    return found


def _towers(architecture: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Component -> the prefixes of its flat names, and what ComfyUI calls it (comfy/lora.py, model_lora_keys_clip)."""
    if "text_encoder_2" in architecture:
        return {
            "text_encoder": (("lora_te", "lora_te1"), "clip_l"),
            "text_encoder_2": (("lora_te2",), "clip_g"),
        }
    is_sd2 = architecture["unet"].get("use_linear_projection")
    return {"text_encoder": (("lora_te", "lora_te1"), "clip_h" if is_sd2 else "clip_l")}


def load(path: Path, architecture: dict[str, Any], bases: Bases | None = None) -> Loaded:
    """What ComfyUI applies. Keys that it does not know give a warning, and the rest is applied.

    `bases`: the weights that it is applied to, where magnitudes are among the keys.
    """
    tensors = read(path)
    used: set[str] = set()
    changes: Changes = {}
    for name, target in names(architecture).items():
        style = next((s for s in STYLES if s[0].format(name) in tensors), None)
        scale = tensors.get(f"{name}.alpha")
        if scale is not None:
            used.add(f"{name}.alpha")
        parts = {part: tensors[f"{name}.{part}"] for part in LYCORIS if f"{name}.{part}" in tensors}
        if parts.keys() >= lycoris.LOHA or lycoris.is_lokr(set(parts)):
            used |= {f"{name}.{part}" for part in parts}
            changes[target] = lycoris.change(parts if scale is None else {**parts, "alpha": scale})
        if style is None:
            continue
        up, down = (part.format(name) for part in style)
        used |= {up, down}
        factor = 1.0 if scale is None else scale.item() / tensors[down].shape[0]
        changes[target] = added = product(tensors[up], tensors[down], factor)
        if (magnitudes := tensors.get(f"{name}.dora_scale")) is not None:
            assert bases is not None
            used.add(f"{name}.dora_scale")
            changes[target] = lycoris.decomposed(added, bases[target], magnitudes)
    return Loaded(changes, [key for key in tensors if key not in used])
