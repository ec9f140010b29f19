from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open

from runtime.errors import InputError
from runtime.families import sd1
from runtime.lora_files.adapter import Adapter, read
from runtime.lora_files.convert import converted
from runtime.lora_files.save import Mark, save
from runtime.lora_files.usable import usable
from tests.consumers import a1111, additional_networks, comfyui, in_diffusers
from tests.consumers import kohya as kohya_rules
from tests.consumers.loaded import unlike
from tests.runtime.export import cases as export_cases
from tests.runtime.lora_files.cases import (
    PLACES,
    Made,
    Tensors,
    adapter,
    changes,
    expected,
    kohya,
    kohya_files,
    matrices,
    same,
    tensors_in,
    write,
)

ONCE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STYLES = ["kohya", "diffusers", "peft"]


def turned(source: Path, to: Any, name: str = "turned") -> Path:
    """A file converted beside itself, or a folder of PEFT's style."""
    made = usable(read(source), "converted")
    out = source.parent / (f"{name}-{to}" if to == "peft" else f"{name}-{to}.safetensors")
    result, _ = converted(made, to)
    save(result, out, Mark("converted", (made.sha256,)))
    return out


def metadata_in(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


# --------------------------------------------------------------------------------------------------- there and back


@ONCE
@given(made=kohya_files(), way=st.lists(st.sampled_from(["diffusers", "peft"]), min_size=1, max_size=3))
def test_kohya_s_tensors_come_back_bit_for_bit(made: Made, way: list[str], tmp_path_factory: Any) -> None:
    folder, tensors = tmp_path_factory.mktemp("way"), made.tensors
    path = write(folder / "first.safetensors", tensors, {"ss_output_name": "first", "ss_steps": "20"})
    for number, style in enumerate(way):
        path = turned(path, style, f"step{number}")
    back = turned(path, "kohya", "back")

    assert same(tensors_in(back), tensors)
    found = metadata_in(back)
    assert (found["ss_steps"], found["ss_output_name"]) == ("20", "back-kohya")
    assert not {"lorac.alpha_form", "lorac.adapter_config", "lora_adapter_metadata"} & found.keys()


@ONCE
@given(made=kohya_files())
def test_every_style_changes_the_weights_alike(made: Made, tmp_path_factory: Any) -> None:
    path = write(tmp_path_factory.mktemp("alike") / "first.safetensors", made.tensors)

    wanted = expected(made.tensors)
    assert unlike(changes(read(path)), wanted, 1e-6) == []
    for style in ("diffusers", "peft"):
        assert unlike(changes(read(turned(path, style))), wanted, 1e-6) == []


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("alpha", [8, 11.3])
def test_a_peft_folder_comes_back_with_its_configuration(tmp_path: Path, alpha: float, rslora: bool) -> None:
    """What PEFT itself wrote; 11.3 is not a number of any dtype, and the configuration keeps it."""
    config = LoraConfig(
        r=4,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes any number
        target_modules=r".*mid_block.*to_[qk]",
        alpha_pattern={"to_k": 3},
        rank_pattern={"to_k": 2},
        use_rslora=rslora,
        lora_dropout=0.125,
    )
    get_peft_model(sd1.build(export_cases.small(), "unet"), config).save_pretrained(
        tmp_path / "first" / "unet"
    )

    back = turned(turned(tmp_path / "first", "kohya"), "peft", "back")

    first, second = (
        json.loads((f / "unet" / "adapter_config.json").read_text()) for f in (tmp_path / "first", back)
    )
    assert first == second
    assert same(tensors_in(tmp_path / "first"), tensors_in(back))


def test_a_diffusers_file_comes_back_with_its_configuration(tmp_path: Path) -> None:
    first = turned(write(tmp_path / "a.safetensors", kohya()), "diffusers", "first")
    stated = metadata_in(first)
    # as a trainer of diffusers' own would have written it, with more than we need
    packed = json.loads(stated["lora_adapter_metadata"]) | {"unet.lora_dropout": 0.25}
    text = json.dumps(packed, indent=2, sort_keys=True)
    given_ = write(tmp_path / "given.safetensors", tensors_in(first), {"lora_adapter_metadata": text})

    back = turned(turned(given_, "kohya"), "diffusers", "back")

    assert same(tensors_in(given_), tensors_in(back))
    assert metadata_in(back)["lora_adapter_metadata"] == text


def test_without_any_alpha_no_style_gets_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", kohya(alpha=lambda _: None))

    made = turned(path, "diffusers")

    assert "lora_adapter_metadata" not in metadata_in(made)
    assert same(tensors_in(turned(made, "kohya", "back")), tensors_in(path))


def test_alpha_that_the_file_s_dtype_cannot_hold_is_kept_in_float32(tmp_path: Path) -> None:
    folder = turned(write(tmp_path / "a.safetensors", kohya(dtype=torch.bfloat16)), "peft")
    for config in folder.rglob("adapter_config.json"):
        stated = json.loads(config.read_text()) | {"lora_alpha": 11.3}
        config.write_text(json.dumps(stated))
    for file in folder.rglob("*.safetensors"):
        write(file, dict(tensors_in(file)), {"format": "pt"})

    result, notes = converted(read(folder), "kohya")

    alphas = {update.parts["alpha"] for update in result.updates.values()}
    assert {alpha.dtype for alpha in alphas} == {torch.float32}
    assert [note for note in notes if "rounded to float32" in note]


# -------------------------------------------------------------------------------------------------------- consumers


def mixed(number: int) -> int:
    return 2 + number % 3


READERS = {
    "a1111": a1111,
    "additional-networks": additional_networks,
    "comfyui": comfyui,
    "kohya": kohya_rules,
}


@pytest.mark.parametrize("consumer", READERS)
@pytest.mark.parametrize("style", ["diffusers", "peft"])
def test_what_came_from_other_names_is_loaded_by_kohya_s_readers(
    tmp_path: Path, consumer: str, style: str
) -> None:
    path = write(tmp_path / "a.safetensors", kohya(mixed))
    wanted = expected(tensors_in(path))

    back = turned(turned(path, style), "kohya", "back")
    found = READERS[consumer].load(back, export_cases.small())

    assert found.left == []
    assert unlike(found.changes, wanted) == []


def test_diffusers_loads_what_was_converted_for_it(tmp_path: Path) -> None:
    """Ranks and alphas that differ between modules: it reads them from the metadata."""
    tensors = kohya(mixed, lambda number: torch.tensor(1.0 + number))
    path = turned(write(tmp_path / "a.safetensors", tensors), "diffusers")

    found = in_diffusers.load(path, export_cases.small())

    assert unlike(found, expected(tensors)) == []


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_peft_loads_what_was_converted_for_it(tmp_path: Path, component: str) -> None:
    tensors = kohya(mixed, lambda number: torch.tensor(1.0 + number))
    folder = turned(write(tmp_path / "a.safetensors", tensors), "peft")
    model = sd1.build(export_cases.small(), component)
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}

    merged = PeftModel.from_pretrained(model, folder / component).merge_and_unload()

    found = {
        (component, name.removesuffix(".weight")): (weight - before[name]).flatten(1)
        for name, weight in merged.state_dict().items()
        if not torch.equal(weight, before[name])
    }
    wanted = {place: change for place, change in expected(tensors).items() if place[0] == component}
    assert unlike(found, wanted) == []


# ------------------------------------------------------------------------------------------- other names, refusals


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [("lora_te_", "lora_te1_"), ("lora_te_text_model_", "lora_te_"), ("lora_unet_", "lycoris_")],
)
def test_names_that_only_some_programs_take_are_understood(tmp_path: Path, old: str, new: str) -> None:
    tensors = kohya()
    found, notes = converted(adapter(tmp_path, renamed(tensors, old, new)), "diffusers")

    assert unlike(changes(found), expected(tensors)) == []
    assert bool(notes)


def test_names_of_old_diffusers_are_understood(tmp_path: Path) -> None:
    module = "mid_block.attentions.0.transformer_blocks.0.attn1"
    a, b = matrices((64, 64), 4)
    old = {
        f"unet.{module}.processor.to_out_lora.down.weight": a,
        f"unet.{module}.processor.to_out_lora.up.weight": b,
        f"unet.{module}.to_q.lora.down.weight": a,
        f"unet.{module}.to_q.lora.up.weight": b,
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight": a,
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight": b,
    }

    made, notes = converted(adapter(tmp_path, old), "kohya")

    assert {update.prefix for update in made.updates.values()} == {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    }
    assert any("before 0.20" in note for note in notes)


def test_every_unknown_key_is_told_at_once(tmp_path: Path) -> None:
    tensors = kohya()
    strange = {f"lora_unet_strange_{n}.{p}": torch.ones(2, 2) for n in range(7) for p in ("lora_up.weight",)}
    down = {name.replace("up", "down"): tensor for name, tensor in strange.items()}

    with pytest.raises(InputError) as caught:
        converted(adapter(tmp_path, {**tensors, **strange, **down}), "diffusers")
    assert [p.what.split()[0] for p in caught.value.problems] == [f"lora_unet_strange_{n}" for n in range(7)]

    with pytest.raises(InputError) as caught:
        usable(
            adapter(tmp_path, {**tensors, "emb_params": torch.ones(1), "note": torch.ones(1)}), "converted"
        )
    assert [p.what.split()[0] for p in caught.value.problems] == ["emb_params", "note"]


def test_unknown_keys_are_left_out_only_when_asked(tmp_path: Path) -> None:
    tensors = kohya()

    kept = usable(adapter(tmp_path, {**tensors, "emb_params": torch.ones(1)}), "converted", drop_unknown=True)

    assert {name for name, _ in kept.tensors()} == tensors.keys()


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
        ("LoKr", ("lokr_w1", "lokr_w2")),
        ("DoRA", ("lora_down.weight", "lora_up.weight", "dora_scale")),
        ("OFT", ("oft_blocks",)),
        ("difference", ("diff",)),
    ],
)
def test_methods_without_two_matrices_are_refused_by_name(
    tmp_path: Path, method: str, parts: tuple[str, ...]
) -> None:
    tensors = {f"lora_unet_mid_block_attentions_0_proj_in.{part}": torch.ones(4, 4) for part in parts}

    with pytest.raises(InputError, match=f"its 1 {method} modules cannot be converted: "):
        usable(adapter(tmp_path, tensors), "converted")


def test_a_matrix_without_its_other_half_is_refused(tmp_path: Path) -> None:
    tensors = kohya()
    lost = next(name for name in tensors if name.endswith("lora_up.weight"))
    del tensors[lost]

    with pytest.raises(InputError, match="has only its down part"):
        usable(adapter(tmp_path, tensors), "converted")


def test_a_language_model_s_adapter_has_no_other_names(tmp_path: Path) -> None:
    a, b = matrices((8, 8), 2)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    made: Adapter = adapter(tmp_path, {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b})

    with pytest.raises(InputError, match="of no family with names in other styles"):
        converted(made, "kohya")


def test_two_keys_for_one_module_are_refused(tmp_path: Path) -> None:
    tensors = {**kohya(), **renamed(kohya(), "lora_te_", "lora_te1_")}

    with pytest.raises(InputError, match="are one module"):
        converted(adapter(tmp_path, tensors), "diffusers")


def test_there_are_modules_of_every_kind_in_these_tests() -> None:
    shapes = {len(shape) and shape[2:] for _, _, shape in PLACES}
    assert shapes == {(), (1, 1), (3, 3)}
