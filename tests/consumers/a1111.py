"""The rules by which Stable Diffusion WebUI 1.10.1 (82a973c0) loads and shows a LoRA, written anew.

Rules of extensions-builtin/Lora: networks.py (names), network.py (alias, version, hash, scale),
network_lora.py, ui_edit_user_metadata.py (the panel); modules/sd_models.py (metadata). No line is copied.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import attrs

from tests.consumers import compvis, lycoris
from tests.consumers.loaded import Bases, Changes, Loaded, Refused, product, read

RESIDUAL = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}

Name = Callable[[re.Match[str]], str]


def _part(kind: str, rest: str) -> str:
    return f"1_{rest}" if kind == "attentions" else f"0_{RESIDUAL.get(rest, rest)}"


def _middle(kind: str, place: int, rest: str) -> str:
    return f"1_{rest}" if kind == "attentions" else f"{2 * place}_{RESIDUAL.get(rest, rest)}"


NAMES: list[tuple[str, Name]] = [
    (r"conv_in(.*)", lambda m: f"input_blocks_0_0{m[1]}"),
    (r"conv_out(.*)", lambda m: f"out_2{m[1]}"),
    (r"time_embedding_linear_(\d+)(.*)", lambda m: f"time_embed_{2 * int(m[1]) - 2}{m[2]}"),
    (
        r"down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)",
        lambda m: f"input_blocks_{1 + 3 * int(m[1]) + int(m[3])}_{_part(m[2], m[4])}",
    ),
    (
        r"mid_block_(attentions|resnets)_(\d+)_(.+)",
        lambda m: f"middle_block_{_middle(m[1], int(m[2]), m[3])}",
    ),
    (
        r"up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)",
        lambda m: f"output_blocks_{3 * int(m[1]) + int(m[3])}_{_part(m[2], m[4])}",
    ),
    (r"down_blocks_(\d+)_downsamplers_0_conv", lambda m: f"input_blocks_{3 + 3 * int(m[1])}_0_op"),
    (
        r"up_blocks_(\d+)_upsamplers_0_conv",
        lambda m: f"output_blocks_{2 + 3 * int(m[1])}_{1 + (int(m[1]) > 0)}_conv",
    ),
]


def compvis_name(name: str, is_sd2: bool = False) -> str:
    """WebUI's name for a file's module, the name itself where no rule applies."""
    text = re.match(r"lora_te(2?)_text_model_encoder_layers_(\d+)_(.+)", name)
    if text and (is_sd2 or text[1]):
        inner = text[3].replace("mlp_fc1", "mlp_c_fc").replace("mlp_fc2", "mlp_c_proj")
        place = "1_model" if text[1] else "model"
        return f"{place}_transformer_resblocks_{text[2]}_{inner.replace('self_attn', 'attn')}"
    if text:
        return f"transformer_text_model_encoder_layers_{text[2]}_{text[3]}"
    for pattern, rename in NAMES:
        found = re.match("lora_unet_" + pattern, name)
        if found:
            return "diffusion_model_" + rename(found)
    return name


def modules(architecture: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """WebUI's layer name -> (component, module by diffusers' names). An attention of OpenCLIP's is one layer there,
    whose q, k, v and out are found by its name and theirs."""
    in_diffusers = compvis.in_diffusers(architecture)
    found = {
        f"diffusion_model_{name.replace('.', '_')}": ("unet", in_diffusers[name]) for name in in_diffusers
    }
    is_xl, is_sd2 = "text_encoder_2" in architecture, architecture["unet"].get("use_linear_projection")
    if is_xl or not is_sd2:
        place = "0_transformer" if is_xl else "transformer"
        for name in compvis.text_encoder(architecture["text_encoder"]["num_hidden_layers"]):
            inner = name.removeprefix("text_model.")
            found[f"{place}_{name.replace('.', '_')}"] = ("text_encoder", inner)
    if is_xl or is_sd2:
        component, place = ("text_encoder_2", "1_model") if is_xl else ("text_encoder", "model")
        for name in compvis.text_encoder(architecture[component]["num_hidden_layers"]):
            inner = name if is_xl else name.removeprefix("text_model.")
            theirs = name.replace("text_model.encoder.layers.", "").replace("self_attn", "attn")
            theirs = theirs.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
            found[f"{place}_transformer_resblocks_{theirs.replace('.', '_')}"] = (component, inner)
    return found


def load(path: Path, architecture: dict[str, Any], bases: Bases | None = None) -> Loaded:
    """What WebUI applies. Keys that match nothing are dropped with a line in its log, and no error.

    `bases`: the weights that it is applied to, where magnitudes are among the keys.
    """
    tensors, known = read(path), modules(architecture)
    is_sd2 = any(name.startswith("model_transformer_resblocks") for name in known)
    parts: dict[str, dict[str, str]] = {}
    left = []
    for key in tensors:
        prefix, _, part = key.partition(".")
        name = compvis_name(prefix, is_sd2)
        if name not in known and "lora_unet" in prefix:
            name = prefix.replace("lora_unet", "diffusion_model")
        elif name not in known and "lora_te1_text_model" in prefix:
            name = prefix.replace("lora_te1_text_model", "0_transformer_text_model")
            if name not in known:
                name = prefix.replace("lora_te1_text_model", "transformer_text_model")
        if name in known:
            parts.setdefault(name, {})[part] = key
        else:
            left.append(key)
    changes: Changes = {}
    for name, keys in parts.items():
        if keys.keys() >= lycoris.LOHA or lycoris.is_lokr(set(keys)):
            changes[known[name]] = lycoris.change({part: tensors[key] for part, key in keys.items()})
            continue
        names = {"lora_up.weight", "lora_down.weight"}
        if not names <= keys.keys():
            names = {"lora_B.weight", "lora_A.weight"}
        if not names <= keys.keys():
            raise Refused(f"no module type takes {sorted(keys)}")
        up, down = (tensors[keys[part]] for part in sorted(names, reverse=True))
        scale = 1.0
        if "scale" in keys:
            scale = tensors[keys["scale"]].item()
        elif "alpha" in keys:
            scale = tensors[keys["alpha"]].item() / down.shape[0]
        if not _is_applied(name, parts):
            continue
        changes[known[name]] = added = product(up, down, scale)
        if "dora_scale" in keys:
            assert bases is not None
            changes[known[name]] = lycoris.decomposed(added, bases[known[name]], tensors[keys["dora_scale"]])
    return Loaded(changes, left)


def _is_applied(name: str, parts: Container[str]) -> bool:
    """A part of an OpenCLIP attention is passed over, without a word, where the three others are not there."""
    attention = re.fullmatch(r"(.*_resblocks_\d+_attn)_(?:[qkv]|out)_proj", name)
    return attention is None or all(
        f"{attention[1]}_{part}" in parts for part in ("q_proj", "k_proj", "v_proj", "out_proj")
    )


@attrs.frozen
class Card:
    """What WebUI knows of a file without its weights."""

    alias: str
    version: str
    shorthash: str
    metadata: dict[str, Any]


def card(path: Path) -> Card:
    """Read a file's metadata as WebUI does."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if data[8:10] not in (b'{"', b"{'"):
        raise Refused("the metadata does not begin as a safetensors header")
    metadata: dict[str, Any] = {}
    for key, value in json.loads(data[8 : 8 + length])["__metadata__"].items():
        metadata[key] = value
        if value.startswith("{"):
            try:
                metadata[key] = json.loads(value)
            except json.JSONDecodeError:
                continue
    version = "Unknown"
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        version = "SDXL"
    elif str(metadata.get("ss_v2", "")) == "True":
        version = "SD2"
    elif metadata:
        version = "SD1"
    stated = metadata.get("sshs_model_hash") or hashlib.sha256(data[8 + length :]).hexdigest()
    return Card(metadata.get("ss_output_name", path.stem), version, stated[:12], metadata)


def alias_in_prompt(name: str, others: list[str]) -> str:
    """The name that `<lora:…>` finds a file by: its alias, or its stem where the alias is taken or
    forbidden."""
    return "" if name.lower() in {"none", "addams"} or others.count(name) > 1 else name


def prompt_calls(prompt: str) -> list[tuple[str, list[str]]]:
    """(kind, arguments) of every `<kind:argument:argument>` in a prompt."""
    return [(kind, rest.split(":")) for kind, rest in re.findall(r"<(\w+):([^>]+)>", prompt)]


def panel(metadata: dict[str, Any]) -> dict[str, str]:
    """The table of the metadata editor. A value of an unexpected type raises, and WebUI then shows no
    table."""
    table = {}
    labels = {
        "ss_output_name": "Output name",
        "ss_sd_model_name": "Model",
        "ss_clip_skip": "Clip skip",
        "ss_network_module": "Kohya module",
    }
    for key, label in labels.items():
        value = metadata.get(key)
        if value is not None and str(value) != "None":
            if not isinstance(value, str):
                raise TypeError(f"{key} is not text")
            table[label] = value
    started = metadata.get("ss_training_started_at")
    if started:
        table["Date trained"] = str(float(started))
    counts: dict[str, int] = {}
    for bucket in (metadata.get("ss_bucket_info") or {}).get("buckets", {}).values():
        width, height = bucket["resolution"]
        counts[f"{height}x{width}"] = counts.get(f"{height}x{width}", 0) + int(bucket["count"])
    table["Resolutions"] = ", ".join(sorted(counts, key=lambda name: -counts[name])[:4])
    table["Dataset size"] = str(sum(int(f.get("img_count", 0)) for f in metadata["ss_dataset_dirs"].values()))
    return table


def tag_cloud(metadata: dict[str, Any]) -> list[tuple[str, int]]:
    """The 24 tags shown; where "tags" are sentences on average, their words of three letters and more."""
    tags: dict[str, int] = {}
    for counts in metadata.get("ss_tag_frequency", {}).values():
        for tag, count in counts.items():
            tags[tag.strip()] = tags.get(tag.strip(), 0) + int(count)
    if tags and sum(map(len, tags)) / len(tags) >= 16:
        words: dict[str, int] = {}
        for text, count in tags.items():
            for word in re.findall(r"[-_\w']+", text):
                if len(word) >= 3:
                    words[word] = words.get(word, 0) + count
        tags = words
    return sorted(tags.items(), key=lambda item: -item[1])[:24]
