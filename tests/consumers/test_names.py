"""Stable Diffusion 1.5's names, whole: 192 of the UNet, 72 of the text encoder, 86 more for its convolutions.

sd15_names.txt was written once from kohya's rules; it is the list that every consumer must know.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.families import sd1
from tests.consumers import a1111, additional_networks, comfyui, kohya
from tests.runtime.export import cases

GOLDEN = Path(__file__).with_name("sd15_names.txt").read_text(encoding="utf-8").splitlines()


def exported_names(targets: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Our name of every module that these targets match in SD 1.5 -> (component, module)."""
    return {
        sd1.export_name(component, module): (component, module)
        for component, modules in cases.adapted(sd1.published(), targets).items()
        for module in modules
    }


def test_the_list_is_what_kohya_names() -> None:
    names = kohya.names(sd1.published())

    assert list(names) == GOLDEN
    assert sum(name.startswith("lora_unet_") for name in names) == 192
    assert sum(name.startswith("lora_te_text_model_encoder_layers_") for name in names) == 72
    assert len(kohya.names(sd1.published(), convolutions=True)) == 192 + 86 + 72


def test_every_module_is_exported_under_kohya_s_name_of_it() -> None:
    assert exported_names(cases.USUAL) == kohya.names(sd1.published())
    assert exported_names(cases.WITH_CONVOLUTIONS) == kohya.names(sd1.published(), convolutions=True)


@pytest.mark.parametrize(
    ("preset", "unet", "text"), [("qkv", 96, 36), ("qkvo", 128, 48), ("qkvo+ff", 160, 72)]
)
def test_a_preset_exports_no_name_beyond_the_list(preset: str, unet: int, text: int) -> None:
    names = exported_names(sd1.targets(sd1.published(), preset, text_encoder=True))

    assert names.keys() <= set(GOLDEN)
    assert [sum(name.startswith(prefix) for name in names) for prefix in ("lora_unet_", "lora_te_")] == [
        unet,
        text,
    ]


def test_the_text_encoder_is_named_alike_with_and_without_its_text_model_level() -> None:
    """transformers 5.6 dropped the level from CLIPTextModel; files keep it."""
    expected = "lora_te_text_model_encoder_layers_0_mlp_fc1"

    assert sd1.export_name("text_encoder", "encoder.layers.0.mlp.fc1") == expected
    assert sd1.export_name("text_encoder", "text_model.encoder.layers.0.mlp.fc1") == expected


@pytest.mark.parametrize("convolutions", [False, True])
def test_every_consumer_finds_the_module_that_was_trained(convolutions: bool) -> None:
    architecture = sd1.published()
    webui, comfy = a1111.modules(architecture), comfyui.names(architecture)

    for name, module in kohya.names(architecture, convolutions).items():
        assert webui[a1111.compvis_name(name)] == module
        assert webui[additional_networks.compvis_name(name)] == module
        assert comfy[name] == module
