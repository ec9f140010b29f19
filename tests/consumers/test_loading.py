"""Every consumer's loading rules, on exported files: each module is changed as trained, and no key is
left over."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.consumers import a1111, additional_networks, comfyui, in_diffusers, kohya
from tests.consumers.conftest import Exported
from tests.consumers.loaded import Loaded, Refused, unlike
from tests.runtime.export import cases


def in_diffusers_load(path: Path, architecture: dict[str, Any]) -> Loaded:
    """diffusers raises for a key that it has no module for, so none can be left over."""
    return Loaded(in_diffusers.load(path, architecture), [])


READERS = {
    "a1111": a1111.load,
    "additional-networks": additional_networks.load,
    "comfyui": comfyui.load,
    "diffusers": in_diffusers_load,
    "kohya": kohya.load,
}
CONSUMERS = {
    "a1111": "Stable Diffusion WebUI (AUTOMATIC1111)",
    "additional-networks": "sd-webui-additional-networks",
    "comfyui": "ComfyUI",
    "diffusers": "diffusers",
    "kohya": "sd-scripts (kohya)",
}
Make = Callable[..., Exported]
TARGETS = {
    "attention": cases.USUAL,
    "convolutions": cases.WITH_CONVOLUTIONS,
    "unet only": {"unet": cases.USUAL["unet"]},
}
FEW = {
    "unet": r"(mid_block|up_blocks\.1)\.attentions\.0\..*(proj_in|attn1.*|net\.2)",
    "text_encoder": r".*\.layers\.1\.self_attn\..*",
}
"""One of each kind, for quick loading."""

FEW_CONVOLUTIONS = {"unet": r"(up_blocks\.[01]|mid_block)\.(resnets\.1|upsamplers)\..*"}
SURROUND = {**FEW, "unet": r"conv_in|conv_out|time_embedding\.linear_[12]|mid_block\..*\.to_q"}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("consumer", READERS)
def test_every_module_is_changed_as_trained(exported: Make, consumer: str, targets: str) -> None:
    made = exported(TARGETS[targets], dtype="fp32")

    found = READERS[consumer](made.webui, made.architecture)

    assert unlike(found.changes, made.changes) == []
    assert found.left == []


@pytest.mark.parametrize("consumer", READERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 1e-3), ("bf16", 1e-2)])
def test_sixteen_bits_change_it_alike(exported: Make, consumer: str, dtype: str, tolerance: float) -> None:
    made = exported(FEW, dtype=dtype, adapter_alpha=11.3)

    found = READERS[consumer](made.webui, made.architecture)

    assert unlike(found.changes, made.changes, tolerance) == []


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_diffusers_loads_the_folder_by_its_own_file(exported: Make, dtype: str) -> None:
    made = exported(dtype=dtype)
    kept = load_file(made.folder / "pytorch_lora_weights.safetensors")

    found = in_diffusers.load(made.folder, made.architecture)

    assert unlike(found, made.changes, 1e-4 if dtype == "fp32" else 1e-3) == []
    assert len(kept) == 2 * len(made.changes) and all("lora" in key for key in kept)


def test_diffusers_own_file_is_not_for_webui(exported: Make) -> None:
    """Why there are two files; the counts are those that the consumers' own code gave (facts/outputs.md
    rule 1)."""
    made = exported(dtype="fp32")
    path = made.folder / "pytorch_lora_weights.safetensors"

    assert len(made.changes) == 204
    assert len(comfyui.load(path, made.architecture).changes) == 76
    assert len(a1111.load(path, made.architecture).changes) == 0


@pytest.mark.parametrize("targets", [FEW, FEW_CONVOLUTIONS, SURROUND])
@pytest.mark.parametrize("consumer", READERS)
def test_the_manifest_says_what_the_consumer_does(
    exported: Make, consumer: str, targets: dict[str, str]
) -> None:
    made = exported(targets, dtype="fp32")
    said = next(v for v in made.manifest.consumers if v.consumer == CONSUMERS[consumer])

    try:
        found = READERS[consumer](made.webui, made.architecture)
        done = "partial" if found.left or unlike(found.changes, made.changes) else "loads"
    except Refused:
        done = "refuses"

    assert said.loads == done
    if done != "loads":
        assert "lora_unet_conv_in" in said.reason


# What these checks must catch: files that some consumer takes wrongly, most of them in silence.

Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _renamed(pattern: str, by: str) -> Edit:
    return lambda tensors: {re.sub(pattern, by, key): value for key, value in tensors.items()}


def _alpha(factor: float, only: str = "") -> Edit:
    def edit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: value * factor if key.endswith(".alpha") and only in key else value
            for key, value in tensors.items()
        }

    return edit


def _without(pattern: str) -> Edit:
    return lambda tensors: {key: value for key, value in tensors.items() if not re.search(pattern, key)}


def _swapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    one, other = (
        f"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_{x}.lora_up.weight" for x in "qk"
    )
    return {**tensors, one: tensors[other], other: tensors[one]}


EVERYONE = set(READERS)
FAULTS: dict[str, tuple[Edit, set[str]]] = {
    "alpha twice as large": (_alpha(2), EVERYONE),
    "no alpha": (_without(r"\.alpha$"), EVERYONE),
    "one alpha unlike the others": (_alpha(2, only="mid_block_attentions_0_proj_in"), EVERYONE),
    "no text_model level": (_renamed("_text_model_", "_"), EVERYONE - {"diffusers"}),
    "the text encoder's prefix of SDXL": (
        _renamed("^lora_te_", "lora_te1_"),
        {"kohya", "additional-networks"},
    ),
    "two modules swapped": (_swapped, EVERYONE),
    "one module missing": (_without("mid_block_attentions_0_proj_in"), EVERYONE),
    "diffusers' dots": (_renamed("^lora_unet_", "unet."), EVERYONE),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("consumer", READERS)
def test_a_spoiled_file_is_caught(exported: Make, tmp_path: Path, consumer: str, fault: str) -> None:
    made = exported(FEW, dtype="fp32")
    edit, hit = FAULTS[fault]
    path = tmp_path / "spoiled.safetensors"
    save_file(edit(load_file(made.webui)), path)

    try:
        found = READERS[consumer](path, made.architecture)
        caught = bool(found.left or unlike(found.changes, made.changes))
    except (Refused, ValueError, KeyError):
        caught = True

    assert caught == (consumer in hit)


def test_mixed_alphas_are_wrong_in_diffusers_alone(exported: Make, tmp_path: Path) -> None:
    """The reason for one alpha in each component: change half of the alphas, and the matrices with them."""
    made = exported(FEW, dtype="fp32")
    tensors = load_file(made.webui)
    for key in tensors:
        if "up_blocks" in key:
            factor = {"alpha": 2.0, "lora_up": 0.5}.get(key.split(".")[1], 1.0)
            tensors[key] = tensors[key] * factor
    path = tmp_path / "mixed.safetensors"
    save_file(tensors, path)

    wrong = set()
    for consumer, load in READERS.items():
        if unlike(load(path, made.architecture).changes, made.changes):
            wrong.add(consumer)
    assert wrong == {"diffusers"}
