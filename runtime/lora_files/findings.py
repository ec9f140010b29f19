"""What is suspicious about a LoRA file: what was trained to nothing, what is not finite, and what some program drops
or scales wrongly, mostly in silence.

Each rule was established by running the programs' own loaders (facts/outputs.md, by the number of its rule); those
for Stable Diffusion 1.x are held by tests/consumers/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from typing import Literal

import attrs

from runtime.export.consumers import USUAL
from runtime.lora_files.adapter import IN_DIFFUSERS, Adapter, At, Update
from runtime.lora_files.usable import matrices
from runtime.safeio import safetensors

Level = Literal["wrong", "note"]


@attrs.frozen
class Finding:
    """`level`: "wrong" is a fault of the file; a "note" is what some program makes of it. `keys`: those meant."""

    level: Level
    what: str
    keys: list[str]


def all_of(adapter: Adapter, zero: Set[At]) -> Iterator[Finding]:
    """Every finding. `zero`: the updates whose change is nothing."""
    yield from _values(adapter, zero)
    yield from _alphas(adapter)
    if adapter.whole:
        what = f"{len(adapter.whole)} weights are trained whole: PEFT loads them; vLLM and llama.cpp refuse the file"
        yield Finding("note", what, list(adapter.whole))
    if adapter.rest:
        yield Finding(
            "wrong",
            f"{len(adapter.rest)} keys are no adapter's: programs drop them or refuse",
            list(adapter.rest),
        )
    if adapter.style == "kohya":
        yield from _kohya(adapter)
    else:
        yield from _dotted(adapter)
    yield from _methods(adapter)
    yield from _stated(adapter)


def _values(adapter: Adapter, zero: Set[At]) -> Iterator[Finding]:
    total = len(adapter.updates)
    if zero:
        whose = [adapter.updates[at].prefix for at in adapter.updates if at in zero]
        what = f"{len(zero)} of {total} modules change nothing: their product is zero"
        yield Finding("wrong" if len(zero) == total else "note", what, whose)
    bad = [
        name
        for name, tensor in adapter.tensors()
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all())
    ]
    if bad:
        yield Finding("wrong", f"{len(bad)} tensors hold NaN or infinity", bad)
    for update in adapter.updates.values():
        fault = matrices(update) if update.method == "LoRA" else ""
        if fault:
            yield Finding("wrong", f"{update.prefix} {fault}", [update.prefix])


def _alphas(adapter: Adapter) -> Iterator[Finding]:
    for component, updates in adapter.components.items():
        loras = [update for update in updates.values() if update.method != "difference"]
        without = [update.prefix for update in loras if update.alpha is None]
        if without and len(without) < len(loras):
            what = f"{component}: {len(without)} of {len(loras)} modules have no alpha: their rank is taken"
            yield Finding("wrong", what, without)
        elif without and adapter.style == "kohya":
            yield Finding("note", f"{component}: no alpha: programs take alpha = rank, strength 1", [])
        if (
            len({update.alpha for update in loras if update.alpha is not None}) > 1
            and adapter.style == "kohya"
        ):
            yield Finding(
                "wrong",
                f"{component}: alphas differ between modules: diffusers scales it wrongly (rule 2)",
                [],
            )
        nothing = [update.prefix for update in loras if update.alpha == 0]
        if nothing:
            yield Finding("wrong", f"{component}: alpha 0 is the rank to kohya, 0 to WebUI", nothing)


def _kohya(adapter: Adapter) -> Iterator[Finding]:
    prefixes = [update.prefix for update in adapter.updates.values()]
    two = any(prefix.startswith("lora_te2_") for prefix in prefixes)
    bare = [p for p in prefixes if re.match(r"lora_te\d?_encoder_layers", p)]
    if bare:
        yield Finding(
            "wrong",
            f"{len(bare)} names lack text_model_: WebUI and ComfyUI drop them in silence (rule 3)",
            bare,
        )
    numbered = [p for p in prefixes if p.startswith("lora_te1_text_model")]
    if numbered and not two and not any("double_blocks" in p or "joint_blocks" in p for p in prefixes):
        what = "lora_te1_ is SDXL's: in SD 1.x kohya's trainer drops it, additional-networks refuses the file (rule 4)"
        yield Finding("note", what, numbered)
    flat = [p for p in prefixes if p.startswith("lora_unet_")]
    if any(re.match(r"lora_unet_(down|up|mid)_block", p) for p in flat) and not two:
        odd = [
            p
            for p in prefixes
            if p.startswith(("lora_unet_", "lora_te_")) and not USUAL.fullmatch(p) and p not in bare
        ]
        if odd:
            what = f"{len(odd)} names are beyond kohya's: its trainer drops them, additional-networks refuses (rule 5)"
            yield Finding("note", what, odd)
    if two:
        yield from _attention_groups(prefixes)
    if any("joint_blocks" in p for p in flat):
        if any(update.alpha is not None for update in adapter.updates.values()):
            yield Finding("wrong", "WebUI 1.10.1 cannot load an SD 3 file with alpha keys (rule 8)", [])
        yield Finding("wrong", "diffusers 0.42.1 loads nothing of SD 3 in this style (rule 8)", [])
    if IN_DIFFUSERS in adapter.metadata and any(u.alpha is not None for u in adapter.updates.values()):
        yield Finding("wrong", f"{IN_DIFFUSERS} beside alpha keys: diffusers refuses the file (rule 12)", [])


def _attention_groups(prefixes: Iterable[str]) -> Iterator[Finding]:
    groups: dict[str, set[str]] = {}
    for prefix in prefixes:
        found = re.fullmatch(r"(lora_te2_.*_self_attn)_(q|k|v|out)_proj", prefix)
        if found:
            groups.setdefault(found[1], set()).add(found[2])
    partial = [group for group, parts in groups.items() if len(parts) < 4]
    if partial:
        what = f"{len(partial)} attentions of text encoder 2 lack one of q, k, v, out: WebUI leaves them out (rule 7)"
        yield Finding("wrong", what, partial)


def _dotted(adapter: Adapter) -> Iterator[Finding]:
    updates = list(adapter.updates.values())
    if adapter.style in ("diffusers", "diffusers, old") and any(u.component == "unet" for u in updates):
        yield Finding(
            "note",
            "WebUI drops every key of this style in silence (rule 1); lorac lora convert --to kohya",
            [],
        )
        lost = [
            u.prefix
            for u in updates
            if u.component == "unet" and re.search(r"\.(to_[qkv]|to_out\.0)$", u.prefix)
        ]
        if lost and adapter.style == "diffusers":
            yield Finding("note", f"ComfyUI drops {len(lost)} of them, all of attention (rule 1)", lost)
    off = [u.prefix for u in updates if u.alpha is not None and u.alpha != u.rank]
    if adapter.style == "diffusers" and off:
        yield Finding(
            "note", f"{len(off)} alphas are in the metadata alone: only diffusers reads them there", off
        )
    if adapter.style == "peft":
        for component, config in adapter.configs.items():
            if config.get("rank_pattern") or config.get("alpha_pattern"):
                yield Finding(
                    "note", f"{component}: vLLM and llama.cpp ignore rank_pattern and alpha_pattern", []
                )
            if config.get("use_rslora"):
                yield Finding(
                    "note", f"{component}: llama.cpp and Ollama ignore rsLoRA: it comes out too weak", []
                )
            if type(config.get("lora_alpha")) is float:
                yield Finding("note", f"{component}: Ollama reads only an integer lora_alpha", [])


def _methods(adapter: Adapter) -> Iterator[Finding]:
    by_method: dict[str, list[Update]] = {}
    for update in adapter.updates.values():
        by_method.setdefault(update.method, []).append(update)
    if dora := by_method.get("DoRA"):
        yield Finding(
            "note",
            f"{len(dora)} DoRA modules: diffusers, kohya's trainer and sd.cpp leave the scale out (rule 6)",
            [],
        )
        turned = [
            u.prefix for u in dora if u.parts["magnitude"].ndim < 2 or u.parts["magnitude"].shape[0] != 1
        ]
        if turned and adapter.style == "kohya":
            what = f"{len(turned)} DoRA scales are not of shape (1, in): WebUI and ComfyUI apply them wrongly (rule 6)"
            yield Finding("wrong", what, turned)
    for method in ("LoHa", "LoKr"):
        if method in by_method:
            yield Finding(
                "note",
                f"{method}: diffusers, kohya's trainer and additional-networks do not take it (rule 13)",
                [],
            )
    if any("lokr_t2" in u.parts for u in by_method.get("LoKr", [])):
        yield Finding("wrong", "lokr_t2: ComfyUI applies nothing of it, Forge raises (rule 13)", [])
    if any("mid" in u.parts for u in by_method.get("LoRA", [])):
        yield Finding("note", "lora_mid: kohya's trainer and diffusers do not take it", [])


def _stated(adapter: Adapter) -> Iterator[Finding]:
    """The metadata against the tensors."""
    metadata, files = adapter.metadata, [file for file in adapter.files if file.suffix == ".safetensors"]
    if len(files) == 1 and (metadata.keys() & {"sshs_model_hash", "modelspec.hash_sha256"}):
        body = safetensors.body_sha256(files[0])
        if metadata.get("sshs_model_hash", body) != body:
            yield Finding(
                "wrong", "sshs_model_hash is not the hash of these weights: WebUI shows another file's", []
            )
        if metadata.get("modelspec.hash_sha256", f"0x{body}") != f"0x{body}":
            yield Finding("wrong", "modelspec.hash_sha256 is not the hash of these weights", [])
    for file in files:
        length = safetensors.read_header(file).body - 8
        if length > safetensors.WEBUI_HEADER:
            yield Finding(
                "note", f"its header has {length:,} bytes: ComfyUI shows none over 1 MiB (rule 11)", []
            )
    ranks = {u.rank for u in adapter.updates.values()}
    stated = metadata.get("ss_network_dim", "")
    if stated.isdigit() and int(stated) not in ranks:
        yield Finding(
            "wrong", f"ss_network_dim says {stated}, the tensors have rank {min(ranks)} to {max(ranks)}", []
        )
    name = metadata.get("ss_output_name")
    if adapter.style == "kohya" and name and adapter.path.is_file() and name != adapter.path.stem:
        yield Finding("note", f"WebUI calls it by the name it was trained under: <lora:{name}:1>", [])
    if adapter.style == "kohya" and not metadata:
        yield Finding("note", "no metadata: WebUI does not know for which base it is", [])
