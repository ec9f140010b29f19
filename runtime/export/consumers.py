"""Who loads the exported files, from which folder, and what they do with keys they don't know.

What each one does was established by running its code (facts/outputs.md: A1111 1.10.1, ComfyUI 0.3.64,
additional-networks e9f3d622, sd-scripts 48d368fa, diffusers 0.42.1) or by reading it (Forge dfdcbab6,
stable-diffusion.cpp). tests/consumers/ holds their rules as checks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import attrs

from runtime import plan
from runtime.adapters import method
from runtime.export import diffusers, transformer_consumers
from runtime.export.manifest import Loads, Verdict

SD1 = "stable-diffusion-v1/lora"
USUAL = re.compile(
    r"lora_unet_(?:(?:down|up)_blocks_\d+|mid_block)_(?:attentions|resnets|downsamplers|upsamplers)_\d+_.+"
    r"|lora_te_text_model_encoder_layers_\d+_.+"
)
"""The names that kohya's trainer gives in SD 1.x and 2.x: attention, feed-forward, projections, resnets, samplers."""
USUAL_XL = re.compile(
    r"lora_unet_(?:(?:input|output)_blocks_\d+|middle_block)_\d_.+"
    r"|lora_te[12]_text_model_encoder_layers_\d+_.+"
)
"""And in SDXL, by the original names."""


LORA = frozenset({"lora_down.weight", "lora_up.weight", "alpha"})
LYCORIS = LORA | {
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
}
WITH_DORA = LYCORIS | {"dora_scale"}

IN_DIFFUSERS = "0.42.1 is run by lorac's tests"


@attrs.frozen(kw_only=True)
class Consumer:
    """`folder` is below the consumer's own; `unusual`: what it does with a file that has names beyond the usual;
    `tried`: the architectures for which that is known, where it is not all of CHECKED; `knows`: how the keys end that
    it reads (facts/outputs.md 1.1 and rule 6)."""

    name: str
    folder: str
    call: str
    checked: str
    unusual: Loads = "loads"
    unusual_reason: str = ""
    takes_diffusers_file: bool = False
    knows: frozenset[str] = LORA
    tried: frozenset[str] = frozenset()


CONSUMERS = (
    Consumer(
        name="Stable Diffusion WebUI (AUTOMATIC1111)",
        folder="models/Lora",
        call="in the prompt: {example}",
        checked="its loader, 1.10.1, was run",
        knows=WITH_DORA,
    ),
    Consumer(
        name="Forge",
        folder="models/Lora",
        call="in the prompt: {example}",
        checked="its key names were read and its arithmetic was run, dfdcbab6",
        knows=WITH_DORA,
    ),
    Consumer(
        name="sd-webui-additional-networks",
        folder="extensions/sd-webui-additional-networks/models/lora",
        call="in the extension's panel, weight {weight}",
        checked="its loader, e9f3d622, was run",
        unusual="refuses",
        unusual_reason="it refuses a file with a key that it does not know, such as {key}",
        tried=frozenset({SD1}),
    ),
    Consumer(
        name="ComfyUI",
        folder="models/loras",
        call="node Load LoRA, strength {weight}",
        checked="its loader, 0.3.64, was run",
        knows=WITH_DORA,
    ),
    Consumer(
        name="diffusers",
        folder="",
        call="pipe.load_lora_weights(FOLDER)",
        checked=IN_DIFFUSERS,
        takes_diffusers_file=True,
    ),
    Consumer(
        name="sd-scripts (kohya)",
        folder="",
        call="--network_weights {file}",
        checked="its loader, 48d368fa, was run",
        unusual="partial",
        unusual_reason="it leaves out keys that it does not know, such as {key}",
    ),
    Consumer(
        name="stable-diffusion.cpp",
        folder="",
        call="--lora-model-dir FOLDER, in the prompt: {example}",
        checked="its loader was read, not run",
        knows=LYCORIS,
    ),
)

VLLM_RANKS = 16
"""vLLM's `--max-lora-rank` where it is not given (vLLM ac7509e2, facts/outputs.md part 4)."""


def of_language(adapter: plan.Adapter, file: str, folder: str, gguf: str = "") -> tuple[Verdict, ...]:
    """What those who load a language model's adapter do with the folder; `gguf` is the file for llama.cpp, if any."""
    of = method(adapter.method)
    is_lora = "gguf" in of.files(adapter)
    is_plain = is_lora and not adapter.modules_to_save
    why_not = f"it refuses {'an adapter with DoRA' if adapter.dora else of.TITLE}"
    if is_lora:
        why_not = "it refuses an adapter with modules that are trained whole"
    written = of.in_peft(adapter).rank
    rank = f" --max-lora-rank {written}" if written > VLLM_RANKS else ""
    rows: tuple[tuple[str, str, bool, str], ...] = (
        ("PEFT", f'PeftModel.from_pretrained(base, "{folder}")', True, "0.21.2 is run by lorac's tests"),
        (
            "vLLM",
            f"vllm serve BASE --enable-lora{rank} --lora-modules NAME={folder}",
            is_plain,
            "its rules were read",
        ),
        (
            "llama.cpp",
            f"llama-cli -m BASE.gguf --lora {folder}/{gguf}"
            if gguf
            else f"convert_lora_to_gguf.py --base BASE {folder}",
            is_plain,
            "its converter was read, not run",
        ),
    )
    return tuple(
        Verdict(
            consumer=name,
            loads="loads" if loads else "refuses",
            reason=f"takes every key ({checked})" if loads else why_not,
            file=gguf if gguf and name == "llama.cpp" else file,
            folder="",
            call=call,
        )
        for name, call, loads, checked in rows
    )


CHECKED = {
    SD1: USUAL,
    "stable-diffusion-v2-512/lora": USUAL,
    "stable-diffusion-v2-768-v/lora": USUAL,
    "stable-diffusion-xl-v1-base/lora": USUAL_XL,
}
"""ModelSpec's architectures for which the above was established -> the usual names. Of others nothing is claimed."""
ONLY_READ = {"stable-diffusion-v2-512/lora", "stable-diffusion-v2-768-v/lora"}
"""Those for which no consumer's own code was run but diffusers'."""

CHECKED_APART: dict[str, dict[str, tuple[Loads, str]]] = {
    "Z-Image/lora": {
        "ComfyUI": ("loads", "takes every key (its table of names was read, 5151cff2)"),
        "diffusers": ("loads", f"takes every key ({IN_DIFFUSERS})"),
    },
    "Qwen-Image/lora": {
        "ComfyUI": ("loads", "takes every key (its table of names was read)"),
        "diffusers": ("loads", f"takes every key ({IN_DIFFUSERS})"),
    },
    "stable-video-diffusion/lora": {
        "diffusers": (
            "refuses",
            "its pipeline for this family has no loader: PEFT's inject_adapter_in_model and set_peft_model_state_dict "
            "put the file on pipe.unet (run by lorac's tests)",
        ),
    },
}
"""Architectures of which only some consumers were looked at -> consumer -> what it does."""


def verdicts(
    architecture: str, keys: Collection[str], file: str, example: str, weight: float
) -> tuple[Verdict, ...]:
    """What each consumer does with the file that has these keys."""
    if rows := transformer_consumers.rows(architecture):
        return tuple(
            _of_transformer(row, file, {"example": example, "weight": f"{weight:g}"}) for row in rows
        )
    prefixes = sorted(key.partition(".")[0] for key in keys)
    endings = frozenset(key.partition(".")[2] for key in keys)
    usual = CHECKED.get(architecture, USUAL)
    unusual = next((prefix for prefix in prefixes if not usual.fullmatch(prefix)), "")
    words = {"example": example, "weight": f"{weight:g}", "key": unusual, "file": file}
    return tuple(
        Verdict(
            consumer=consumer.name,
            loads=loads,
            reason=reason.format(**words),
            file=diffusers.FILE if consumer.takes_diffusers_file and endings <= consumer.knows else file,
            folder=consumer.folder,
            call=consumer.call.format(**words),
        )
        for consumer in CONSUMERS
        for loads, reason in [_judged(consumer, architecture, unusual, endings)]
    )


def _of_transformer(row: transformer_consumers.Row, file: str, words: Mapping[str, str]) -> Verdict:
    name, loads, reason, which = row
    consumer = next(one for one in CONSUMERS if one.name == name)
    files = {"named": file, "plain": diffusers.FILE}
    return Verdict(
        consumer=name,
        loads=loads,
        reason=reason.format(**files),
        file=files[which],
        folder=consumer.folder,
        call=consumer.call.format(file=file, **words),
    )


def _judged(
    consumer: Consumer, architecture: str, unusual: str, endings: frozenset[str]
) -> tuple[Loads, str]:
    if found := CHECKED_APART.get(architecture, {}).get(consumer.name):
        return found
    if architecture not in (consumer.tried or CHECKED):
        return "not checked", f"nobody has tried it with {architecture or 'this family'}"
    if foreign := sorted(endings - consumer.knows):
        if endings & consumer.knows <= {"alpha"}:
            return "refuses", f"it knows no such keys as .{foreign[0]}"
        return "partial", f"it leaves out .{foreign[0]}, and changes what the LoRA does"
    if unusual and consumer.unusual != "loads":
        return consumer.unusual, consumer.unusual_reason
    is_read = architecture in ONLY_READ and not consumer.takes_diffusers_file
    checked = "its loader was read, not run" if is_read else consumer.checked
    return "loads", f"takes every key ({checked})"
