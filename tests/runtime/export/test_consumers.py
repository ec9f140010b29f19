"""What the manifest claims of consumers."""

from __future__ import annotations

import pytest

from runtime.export import consumers

SD1 = "stable-diffusion-v1/lora"


PLAIN = ("lora_down.weight", "lora_up.weight", "alpha")
USUAL = "lora_unet_mid_block_attentions_0_proj_in"


def claims(architecture: str, *prefixes: str, endings: tuple[str, ...] = PLAIN) -> dict[str, tuple[str, str]]:
    keys = [f"{prefix}.{ending}" for prefix in prefixes for ending in endings]
    found = consumers.verdicts(architecture, keys, "x.safetensors", "<lora:x:0.8>", 0.8)
    return {verdict.consumer: (verdict.loads, verdict.reason) for verdict in found}


def test_usual_keys_load_everywhere() -> None:
    found = claims(
        SD1, "lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1"
    )

    assert len(found) == 7
    assert {loads for loads, _ in found.values()} == {"loads"}


def test_an_unusual_key_is_named_to_those_who_do_not_take_it() -> None:
    found = claims(SD1, "lora_unet_mid_block_attentions_0_proj_in", "lora_unet_conv_in")

    assert {name: claim for name, claim in found.items() if claim[0] != "loads"} == {
        "sd-webui-additional-networks": (
            "refuses",
            "it refuses a file with a key that it does not know, such as lora_unet_conv_in",
        ),
        "sd-scripts (kohya)": (
            "partial",
            "it leaves out keys that it does not know, such as lora_unet_conv_in",
        ),
    }


def test_magnitudes_and_other_methods_are_for_those_who_know_them() -> None:
    dora = claims(SD1, USUAL, endings=(*PLAIN, "dora_scale"))
    loha = claims(SD1, USUAL, endings=("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"))

    assert {name for name, (loads, _) in dora.items() if loads == "loads"} == {
        "Stable Diffusion WebUI (AUTOMATIC1111)",
        "Forge",
        "ComfyUI",
    }
    assert dora["diffusers"] == ("partial", "it leaves out .dora_scale, and changes what the LoRA does")
    assert loha["diffusers"] == ("refuses", "it knows no such keys as .hada_w1_a")
    assert loha["stable-diffusion.cpp"][0] == loha["ComfyUI"][0] == "loads"


def test_nothing_is_claimed_of_a_family_that_nobody_tried() -> None:
    assert set(claims("chroma/lora", "x").values()) == {
        ("not checked", "nobody has tried it with chroma/lora")
    }


def test_of_a_transformer_only_what_was_run_or_read_is_said_to_load() -> None:
    flux, sd35 = claims("flux-1-dev/lora"), claims("stable-diffusion-3-5-medium/lora")

    assert {name for name, (loads, _) in flux.items() if loads == "loads"} == {
        "Forge",
        "ComfyUI",
        "diffusers",
    }
    assert {name for name, (loads, _) in sd35.items() if loads == "loads"} == {"ComfyUI", "diffusers"}
    assert flux["sd-scripts (kohya)"][1].endswith("makes them of pytorch_lora_weights.safetensors")


def test_webui_knows_the_first_stable_diffusion_3_in_part() -> None:
    assert claims("stable-diffusion-3-medium/lora")["Stable Diffusion WebUI (AUTOMATIC1111)"][0] == "partial"


@pytest.mark.parametrize("architecture", ["Z-Image/lora", "Qwen-Image/lora"])
def test_only_those_who_were_looked_at_are_said_to_load_today_s_transformers(architecture: str) -> None:
    found = claims(architecture, "transformer")

    assert {name for name, (loads, _) in found.items() if loads == "loads"} == {"ComfyUI", "diffusers"}
    assert {loads for loads, _ in found.values()} == {"loads", "not checked"}


def test_a_family_that_diffusers_cannot_load_says_what_can() -> None:
    loads, reason = claims("stable-video-diffusion/lora", "unet")["diffusers"]

    assert loads == "refuses" and "inject_adapter_in_model" in reason


def test_each_says_where_it_wants_the_file_and_how_it_is_called() -> None:
    found = consumers.verdicts(SD1, [], "x.safetensors", "<lora:x:0.8> {braces}", 0.8)

    assert {(verdict.folder, verdict.file, verdict.call) for verdict in found} == {
        ("models/Lora", "x.safetensors", "in the prompt: <lora:x:0.8> {braces}"),
        (
            "extensions/sd-webui-additional-networks/models/lora",
            "x.safetensors",
            "in the extension's panel, weight 0.8",
        ),
        ("models/loras", "x.safetensors", "node Load LoRA, strength 0.8"),
        ("", "pytorch_lora_weights.safetensors", "pipe.load_lora_weights(FOLDER)"),
        ("", "x.safetensors", "--network_weights x.safetensors"),
        ("", "x.safetensors", "--lora-model-dir FOLDER, in the prompt: <lora:x:0.8> {braces}"),
    }
