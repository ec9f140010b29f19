"""What `lorac lora inspect` finds; where a finding names a program, that program's own rule is asked, too."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key

from runtime.errors import InputError
from runtime.families import sd1
from runtime.lora_files.adapter import Adapter, by_pattern, read
from runtime.lora_files.convert import converted
from runtime.lora_files.findings import Finding
from runtime.lora_files.inspection import Inspected, inspected
from runtime.lora_files.save import Mark, save
from runtime.safeio.strict_json import canonical
from tests.consumers import a1111, additional_networks, comfyui, kohya
from tests.consumers.loaded import Refused, unlike
from tests.runtime.export import cases as export_cases
from tests.runtime.lora_files import cases
from tests.runtime.lora_files.cases import Tensors, adapter, changes, expected, silent

Edit = Callable[[Tensors], Tensors]


def look(of: Adapter) -> Inspected:
    return inspected(of, silent)


def found(of: Adapter, words: str) -> Finding:
    """The one finding with these words."""
    (one,) = [finding for finding in look(of).findings if words in finding.what]
    return one


def test_a_sound_file_has_no_findings(tmp_path: Path) -> None:
    of = save(
        adapter(tmp_path, cases.kohya(), {"ss_output_name": "a"}),
        tmp_path / "b.safetensors",
        Mark("converted", ("a",)),
    )

    assert look(read(of[0])).findings == []


def test_norms_are_those_of_the_whole_change(tmp_path: Path) -> None:
    tensors = cases.kohya(lambda n: 1 + n % 5, lambda n: torch.tensor(1.0 + n))
    of = look(adapter(tmp_path, tensors))

    for (component, module), change in expected(tensors).items():
        (row,) = [row for row in of.modules if row.name == sd1.export_name(component, module)]
        assert row.frobenius == pytest.approx(change.norm().item(), rel=1e-4)
        assert row.spectral == pytest.approx(torch.linalg.matrix_norm(change, 2).item(), rel=1e-4)
        assert row.strength == pytest.approx(row.alpha / row.rank if row.alpha else 0)
    for part in of.components:
        own = [change for place, change in expected(tensors).items() if place[0] == part.name]
        assert part.modules == len(own)
        assert part.frobenius == pytest.approx(sum(c.square().sum().item() for c in own) ** 0.5, rel=1e-4)
        assert part.spectral == pytest.approx(
            max(torch.linalg.matrix_norm(c, 2).item() for c in own), rel=1e-4
        )


def test_counts_are_by_component(tmp_path: Path) -> None:
    of = look(adapter(tmp_path, cases.kohya(lambda n: 2 + n % 2, dtype=torch.float16)))
    unet = next(part for part in of.components if part.name == "unet")

    assert sum(unet.kinds.values()) == unet.modules == sum(c == "unet" for c, _, _ in cases.PLACES)
    assert set(unet.kinds) == {"linear", "convolution 1×1", "convolution 3×3"}
    assert (
        set(unet.ranks) == {"2", "3"}
        and unet.alphas == {"2": unet.modules}
        and set(unet.strengths) == {"1", "0.6667"}
    )
    assert of.dtypes == {"F16": 2 * len(cases.PLACES), "F32": len(cases.PLACES)}
    assert (of.style, of.family) == ("kohya", "Stable Diffusion 1.x (by its names)")


def test_the_hashes_are_what_programs_show(tmp_path: Path) -> None:
    path = cases.write(tmp_path / "a.safetensors", cases.kohya(), {"ss_output_name": "a"})

    (file,) = look(read(path)).files

    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.civitai_autov2 == file.sha256[:10]
    assert file.webui_shorthash == a1111.card(path).shorthash == file.civitai_autov3


def test_a_stated_hash_is_shown_as_webui_would_and_found_wrong(tmp_path: Path) -> None:
    path = cases.write(tmp_path / "a.safetensors", cases.kohya(), {"sshs_model_hash": "ab" * 32})

    assert look(read(path)).files[0].webui_shorthash == a1111.card(path).shorthash == "ab" * 6
    assert found(read(path), "sshs_model_hash is not the hash").level == "wrong"


def test_metadata_is_decoded(tmp_path: Path) -> None:
    said = {
        "ss_tag_frequency": json.dumps({"10_cat": {"cat": 3}}),
        "ss_network_args": "{broken",
        "ss_seed": "7",
    }

    assert look(adapter(tmp_path, cases.kohya(), said)).metadata == {
        "ss_tag_frequency": {"10_cat": {"cat": 3}},
        "ss_network_args": "{broken",
        "ss_seed": "7",
    }


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["lora_te2_text_model_encoder_layers_0_mlp_fc1"], "Stable Diffusion XL"),
        (["lora_unet_double_blocks_0_img_attn_qkv"], "Flux.1"),
        (["transformer.single_transformer_blocks.0.attn.to_q"], "Flux.1"),
        (["lora_unet_joint_blocks_0_x_block_attn_qkv"], "Stable Diffusion 3"),
        (["diffusion_model.blocks.0.cross_attn.q"], "Wan"),
        (["base_model.model.model.layers.0.self_attn.q_proj"], "a language model"),
        (["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"], "Stable Diffusion 2.x"),
        (["lora_te_text_model_encoder_layers_0_self_attn_q_proj"], "Stable Diffusion 1.x (by its names)"),
        (["lora_unet_strange"], "unknown"),
    ],
)
def test_the_family_is_told_by_the_names(tmp_path: Path, names: list[str], family: str) -> None:
    a, b = cases.matrices((8, 1024), 2)
    lower, upper = ("lora_A", "lora_B") if "." in names[0] else ("lora_down", "lora_up")
    tensors = {f"{name}.{lower}.weight": a for name in names} | {
        f"{name}.{upper}.weight": b for name in names
    }

    assert look(adapter(tmp_path, tensors)).family == family


# -------------------------------------------------------------------------------------------------------- findings


def zeroed(tensors: Tensors, which: str = "") -> Tensors:
    return {
        k: torch.zeros_like(t) if k.endswith("lora_up.weight") and which in k else t
        for k, t in tensors.items()
    }


def test_updates_that_change_nothing_are_found(tmp_path: Path) -> None:
    some, every = (
        adapter(tmp_path, zeroed(cases.kohya(), which), name=f"z{which}") for which in ("to_q", "")
    )
    two = sum("to_q" in name for _, name, _ in cases.PLACES)

    assert (found(some, "change nothing").level, len(found(some, "change nothing").keys)) == ("note", two)
    assert found(every, "change nothing").level == "wrong"
    assert sum(part.unchanged for part in look(every).components) == len(cases.PLACES)


def test_values_that_are_not_finite_are_found_by_key(tmp_path: Path) -> None:
    tensors = cases.kohya()
    bad = next(name for name in tensors if name.endswith("up.weight"))
    tensors[bad][0, 0] = torch.inf
    of = adapter(tmp_path, tensors)

    assert found(of, "NaN or infinity").keys == [bad]
    assert next(row for row in look(of).modules if bad.startswith(row.name)).frobenius is None


def test_missing_mixed_and_zero_alphas_are_found(tmp_path: Path) -> None:
    missing = adapter(tmp_path, cases.kohya(alpha=lambda n: torch.tensor(2.0) if n else None), name="missing")
    mixed = adapter(tmp_path, cases.kohya(alpha=lambda n: torch.tensor(1.0 + n)), name="mixed")
    nothing = adapter(tmp_path, cases.kohya(alpha=lambda n: torch.tensor(0.0)), name="nothing")
    without = adapter(tmp_path, cases.kohya(alpha=lambda _: None), name="without")

    first = sd1.export_name(*cases.PLACES[0][:2])
    assert found(missing, "have no alpha").keys == [first]
    assert len([one for one in look(mixed).findings if "alphas differ" in one.what]) == 2
    assert len([one for one in look(nothing).findings if "alpha 0" in one.what and one.level == "wrong"]) == 2
    assert {one.level for one in look(without).findings if "no alpha" in one.what} == {"note"}


def test_keys_that_are_no_adapter_s_and_halves_are_found(tmp_path: Path) -> None:
    tensors = {**cases.kohya(), "bundle_emb.cat.string_to_param.*": torch.ones(2)}
    lost = next(name for name in tensors if name.endswith("lora_up.weight"))
    del tensors[lost]
    of = adapter(tmp_path, tensors)

    assert found(of, "no adapter's").keys == ["bundle_emb.cat.string_to_param.*"]
    assert found(of, "only its down part").level == "wrong"


SPOILED: dict[str, tuple[Edit, str, set[Any]]] = {
    "no text_model level": (
        lambda ts: {k.replace("_text_model_", "_"): t for k, t in ts.items()},
        "lack text_model_",
        {a1111, comfyui},
    ),
    "SDXL's prefix": (
        lambda ts: {k.replace("lora_te_", "lora_te1_"): t for k, t in ts.items()},
        "lora_te1_ is SDXL's",
        {kohya, additional_networks},
    ),
    "beyond kohya's names": (
        lambda ts: {
            **ts,
            "lora_unet_conv_out.lora_down.weight": torch.ones(2, 32, 3, 3),
            "lora_unet_conv_out.lora_up.weight": torch.ones(4, 2, 1, 1),
        },
        "beyond kohya's",
        {kohya, additional_networks},
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_names_that_a_program_drops_are_found_and_it_does_drop_them(tmp_path: Path, fault: str) -> None:
    edit, words, programs = SPOILED[fault]
    of = adapter(tmp_path, edit(cases.kohya()))

    assert found(of, words).keys
    for consumer in programs:
        with contextlib.suppress(Refused):
            assert consumer.load(of.path, export_cases.small()).left


@pytest.mark.parametrize("count", [1, 3])
def test_of_diffusers_names_webui_takes_none_and_comfyui_what_is_said(tmp_path: Path, count: int) -> None:
    made, _ = converted(adapter(tmp_path, cases.kohya(lambda _: count, lambda _: None)), "diffusers")
    of = read(save(made, tmp_path / "d.safetensors", Mark("converted", ("a",)))[0])

    assert found(of, "WebUI drops every key").level == "note"
    assert a1111.load(of.path, export_cases.small()).changes == {}
    dropped = found(of, "ComfyUI drops").keys
    taken = comfyui.load(of.path, export_cases.small()).changes
    assert len(dropped) + len(taken) == len(cases.PLACES)
    assert unlike(taken, {place: change for place, change in changes(of).items() if place in taken}) == []


def test_what_language_model_servers_ignore_is_found(tmp_path: Path) -> None:
    config = LoraConfig(
        r=4, lora_alpha=2.5, target_modules=["to_q"], rank_pattern={"attn1.to_q": 2}, use_rslora=True  # type: ignore[arg-type]
    )  # fmt: skip
    get_peft_model(sd1.build(export_cases.small(), "unet"), config).save_pretrained(tmp_path / "lora")

    said = " ".join(one.what for one in look(read(tmp_path / "lora")).findings)

    assert (
        "vLLM and llama.cpp ignore rank_pattern" in said
        and "ignore rsLoRA" in said
        and "only an integer" in said
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"lora_down.weight": (2, 4), "lora_up.weight": (4, 2), "dora_scale": (4, 1)},
            "not of shape (1, in)",
        ),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 2), "lokr_w2_b": (2, 2), "lokr_t2": (2, 2, 3, 3)}, "lokr_t2"),
        (
            {"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (4, 2), "hada_w2_b": (2, 4)},
            "LoHa: diffusers",
        ),
        (
            {
                "lora_down.weight": (2, 4, 1, 1),
                "lora_up.weight": (4, 2, 1, 1),
                "lora_mid.weight": (2, 2, 3, 3),
            },
            "lora_mid",
        ),
    ],
)
def test_methods_that_programs_take_wrongly_are_found(
    tmp_path: Path, parts: dict[str, Any], words: str
) -> None:
    tensors = {
        f"lora_unet_mid_block_attentions_0_proj_in.{part}": torch.ones(shape) for part, shape in parts.items()
    }

    assert found(adapter(tmp_path, tensors), words)


def test_a_text_encoder_2_with_parts_of_an_attention_is_found(tmp_path: Path) -> None:
    a, b = cases.matrices((8, 8), 2)
    stem = "lora_te2_text_model_encoder_layers_0_self_attn_"
    tensors = {
        f"{stem}{p}_proj.{side}.weight": t for p in "qv" for side, t in (("lora_down", a), ("lora_up", b))
    }

    assert found(adapter(tmp_path, tensors), "lack one of q, k, v, out").keys == [stem.removesuffix("_")]


def test_metadata_that_does_not_agree_is_found(tmp_path: Path) -> None:
    of = adapter(tmp_path, cases.kohya(), {"ss_network_dim": "128", "ss_output_name": "other"})

    assert found(of, "ss_network_dim says 128").level == "wrong"
    assert found(of, "<lora:other:1>").level == "note"


# --------------------------------------------------------------------------------------------------------- reading


def test_a_whole_model_is_no_adapter(tiny_base: Path) -> None:
    with pytest.raises(InputError, match="has no key that an adapter's keys end in"):
        read(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_folder_of_several_files_is_not_guessed_at(tmp_path: Path) -> None:
    for name in "ab":
        cases.write(tmp_path / f"{name}.safetensors", cases.kohya())

    with pytest.raises(InputError, match="holds 2 safetensors files"):
        read(tmp_path)


def test_a_checkpoint_of_old_days_is_read_without_running_it(tmp_path: Path) -> None:
    torch.save(cases.kohya(), tmp_path / "a.pt")

    assert changes(read(tmp_path / "a.pt")).keys() == expected(cases.kohya()).keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_alpha": "much"}, "lora_alpha is not a number"),
        ({"r": True}, "r is not a number"),
        ({"alpha_pattern": [1]}, "alpha_pattern: is not a JSON object"),
        ({"alpha_pattern": {"to_k": "1"}}, "alpha_pattern to_k is not a number"),
        ({"rank_pattern": {"(a+)+$": 1}}, "that is not looked for"),
        ({"rank_pattern": {"[": 1}}, "that is not looked for"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    made, _ = converted(adapter(tmp_path, cases.kohya()), "peft")
    save(made, tmp_path / "lora", Mark("converted", ("a",)))
    config = tmp_path / "lora" / "unet" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))

    with pytest.raises(InputError, match=words):
        read(tmp_path / "lora")


PATTERNS = ["to_q", "attn1.to_q", "up.1.attn1.to_q", ".*to_k", "^up.1.*", "q", "(up|down).*v"]


@settings(max_examples=200, deadline=None)
@given(
    patterns=st.lists(st.sampled_from(PATTERNS)),
    module=st.sampled_from(
        ["up.1.attn1.to_q", "attn1.to_q", "to_q", "up.1.attn2.to_k", "down.3.to_v", "xto_q"]
    ),
)
def test_patterns_are_looked_up_as_peft_does(patterns: list[str], module: str) -> None:
    values = {pattern: number for number, pattern in enumerate(patterns)}

    assert by_pattern(values, module, -1) == values.get(get_pattern_key(list(values), module), -1)


def test_a_hostile_file_is_looked_at_all_the_same(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to"
    tensors = {
        f"{stem}_q.lora_down.weight": torch.zeros(0, 4),
        f"{stem}_q.lora_up.weight": torch.zeros(4, 0),
        f"{stem}_k.lora_down.weight": torch.ones(2, 4),
        f"{stem}_k.lora_up.weight": torch.ones(4, 2),
        f"{stem}_k.alpha": torch.tensor(torch.nan),
        f"{stem}_v.lora_down.weight": torch.ones(2, 4),
        f"{stem}_v.lora_up.weight": torch.ones(4, 2),
        f"{stem}_v.alpha": torch.ones(3),
    }

    of = look(adapter(tmp_path, tensors))

    assert [row.frobenius for row in of.modules] == [None] * 3
    assert canonical(attrs.asdict(of))
    said = " ".join(one.what for one in of.findings)
    assert "without a number" in said and "has 3 alphas" in said and "NaN" in said


@pytest.mark.parametrize("text", ["[1]", '{"*": "F16"}', '{"*": "F99[]"}', '{"*": "F16[7]"}', "{"])
def test_a_form_of_alpha_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    of = adapter(tmp_path, cases.kohya(), {"lorac.alpha_form": text})

    with pytest.raises(InputError):
        converted(of, "diffusers")
