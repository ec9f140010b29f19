"""Who loads the exported files, from which folder, and what they do with keys they don't know.

What each one does was established by running its code (facts/outputs.md: A1111 1.10.1, ComfyUI 0.3.64,
additional-networks e9f3d622, sd-scripts 48d368fa, diffusers 0.42.1) or by reading it (Forge dfdcbab6,
stable-diffusion.cpp). tests/consumers/ holds their rules as checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from runtime import plan
from runtime.export import diffusers, transformer_consumers
from runtime.export.manifest import Loads, Verdict

USUAL = re.compile(
    r"lora_unet_(?:(?:down|up)_blocks_\d+|mid_block)_(?:attentions|resnets|downsamplers|upsamplers)_\d+_.+"
    r"|lora_te_text_model_encoder_layers_\d+_.+"
)
"""The names that kohya's trainer gives in SD 1.x: attention, feed-forward, projections, resnets, samplers."""

IN_DIFFUSERS = "0.42.1 is run by lorac's tests"


@attrs.frozen(kw_only=True)
class Consumer:
    """`folder` is below the consumer's own; `unusual`: what it does with a file that has names beyond
    USUAL."""

    name: str
    folder: str
    call: str
    checked: str
    unusual: Loads = "loads"
    unusual_reason: str = ""
    takes_diffusers_file: bool = False


CONSUMERS = (
    Consumer(
        name="Stable Diffusion WebUI (AUTOMATIC1111)",
        folder="models/Lora",
        call="in the prompt: {example}",
        checked="its loader, 1.10.1, was run",
    ),
    Consumer(
        name="Forge",
        folder="models/Lora",
        call="in the prompt: {example}",
        checked="its key names were read and its arithmetic was run, dfdcbab6",
    ),
    Consumer(
        name="sd-webui-additional-networks",
        folder="extensions/sd-webui-additional-networks/models/lora",
        call="in the extension's panel, weight {weight}",
        checked="its loader, e9f3d622, was run",
        unusual="refuses",
        unusual_reason="it refuses a file with a key that it does not know, such as {key}",
    ),
    Consumer(
        name="ComfyUI",
        folder="models/loras",
        call="node Load LoRA, strength {weight}",
        checked="its loader, 0.3.64, was run",
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
    ),
)

VLLM_RANKS = 16
"""vLLM's `--max-lora-rank` where it is not given (vLLM ac7509e2, facts/outputs.md part 4)."""


def of_language(adapter: plan.Adapter, file: str, folder: str, gguf: str = "") -> tuple[Verdict, ...]:
    """What those who load a language model's adapter do with the folder; `gguf` is the file for llama.cpp, if any."""
    is_plain = not (adapter.dora or adapter.modules_to_save)
    why_not = f"it refuses an adapter with {'DoRA' if adapter.dora else 'modules that are trained whole'}"
    rank = f" --max-lora-rank {adapter.rank}" if adapter.rank > VLLM_RANKS else ""
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


CHECKED = {"stable-diffusion-v1/lora"}
"""ModelSpec's architectures for which the above was established. Of others nothing is claimed."""

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
    architecture: str, prefixes: Iterable[str], file: str, example: str, weight: float
) -> tuple[Verdict, ...]:
    """What each consumer does with the file whose keys begin with these module names."""
    if architecture in transformer_consumers.FLUX | transformer_consumers.SD3:
        return transformer_consumers.verdicts(architecture, file, example, weight)
    unusual = next((prefix for prefix in sorted(prefixes) if not USUAL.fullmatch(prefix)), "")
    words = {"example": example, "weight": f"{weight:g}", "key": unusual, "file": file}
    return tuple(
        Verdict(
            consumer=consumer.name,
            loads=loads,
            reason=reason.format(**words),
            file=diffusers.FILE if consumer.takes_diffusers_file else file,
            folder=consumer.folder,
            call=consumer.call.format(**words),
        )
        for consumer in CONSUMERS
        for loads, reason in [_judged(consumer, architecture, unusual)]
    )


def _judged(consumer: Consumer, architecture: str, unusual: str) -> tuple[Loads, str]:
    if found := CHECKED_APART.get(architecture, {}).get(consumer.name):
        return found
    if architecture not in CHECKED:
        return "not checked", f"nobody has tried it with {architecture or 'this family'}"
    if unusual and consumer.unusual != "loads":
        return consumer.unusual, consumer.unusual_reason
    return "loads", f"takes every key ({consumer.checked})"
