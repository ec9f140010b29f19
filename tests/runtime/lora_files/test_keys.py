from __future__ import annotations

import pytest

from runtime.lora_files.keys import pipeline_module, split

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize(
    ("key", "style", "component", "part"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "kohya", "unet", "down"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "kohya", "text_encoder", "alpha"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", "kohya", "text_encoder_2", "up"),
        ("lora_unet_x.dora_scale", "kohya", "unet", "magnitude"),
        ("lycoris_x.lokr_w2_a", "kohya", "unet", "lokr_w2_a"),
        (f"unet.{UNET}.to_q.lora_A.weight", "diffusers", "unet", "down"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_B.weight", "diffusers", "text_encoder", "up"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "diffusers", "transformer", "down"),
        (f"unet.{UNET}.processor.to_q_lora.down.weight", "diffusers, old", "unet", "down"),
        (f"unet.{UNET}.to_q.lora.up.weight", "diffusers, old", "unet", "up"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "peft", "model", "down"),
        ("base_model.model.lm_head.lora_embedding_A", "peft", "model", "embedding_down"),
        ("diffusion_model.input_blocks.1.1.proj_in.lora_B.default.weight", "ComfyUI", "unet", "up"),
        ("text_encoders.clip_l.transformer.x.lora_A.weight", "ComfyUI", "clip_l", "down"),
    ],
)
def test_a_key_tells_its_style_component_and_part(key: str, style: str, component: str, part: str) -> None:
    found = split(key)

    assert found is not None
    assert (found.style, found.component, found.part) == (style, component, part)
    assert found.prefix + found.suffix == key


@pytest.mark.parametrize(
    "key", ["emb_params", "bundle_emb.name.string_to_param.*", ".alpha", "model.norm.weight"]
)
def test_what_is_no_adapter_s_key_is_none(key: str) -> None:
    assert split(key) is None


@pytest.mark.parametrize(
    ("prefix", "suffix", "module"),
    [
        (f"unet.{UNET}.processor.to_q", "_lora.down.weight", f"{UNET}.to_q"),
        (f"unet.{UNET}.processor.to_out", "_lora.up.weight", f"{UNET}.to_out.0"),
        (f"unet.{UNET}.to_out.0", ".lora.up.weight", f"{UNET}.to_out.0"),
        (
            "text_encoder.encoder.layers.0.self_attn.to_q",
            "_lora.up.weight",
            "encoder.layers.0.self_attn.q_proj",
        ),
        (f"unet.{UNET}.to_q", ".lora_A.weight", f"{UNET}.to_q"),
    ],
)
def test_old_names_are_told_as_the_modules_are_called_now(prefix: str, suffix: str, module: str) -> None:
    assert pipeline_module(prefix, suffix)[1] == module
