"""The metadata inside the WebUI's file: types, hashes, and that nothing in it comes from clock or machine."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import attrs
import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.export import kohya, metadata
from runtime.families import sd1
from runtime.plan import ZERO_SNR, Plan
from runtime.safeio import safetensors as own
from tests.runtime.export import cases

JSON_OBJECTS = {
    "ss_network_args",
    "ss_bucket_info",
    "ss_dataset_dirs",
    "ss_reg_dataset_dirs",
    "ss_tag_frequency",
}


@pytest.fixture(scope="module")
def tensors(trained: cases.Trained, plan: Plan) -> dict[str, Any]:
    return kohya.tensors(sd1, trained, plan.program.adapter, "fp16")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(plan: Plan, tensors: dict[str, Any]) -> dict[str, str]:
    return metadata.complete(plan, tensors, "cyberpunk", 100, "data:image/jpeg;base64,AA==")


def test_every_value_is_text_and_tables_are_json_objects(found: dict[str, str]) -> None:
    assert all(type(value) is str for value in found.values())
    assert {key for key, value in found.items() if value.startswith("{")} == JSON_OBJECTS
    assert all(isinstance(json.loads(found[key]), dict) for key in JSON_OBJECTS)


def test_only_these_kinds_of_keys_are_written(found: dict[str, str]) -> None:
    """A `lora_adapter_metadata` beside alphas would make diffusers raise (facts/outputs.md rule 12)."""
    assert {re.split(r"[_.]", key)[0] for key in found} == {"ss", "sshs", "modelspec", "lorac"}


def test_what_webui_and_kohya_s_tools_read(found: dict[str, str], plan: Plan) -> None:
    expected = {
        "ss_output_name": "cyberpunk",
        "ss_sd_model_name": "small-sd",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "8.0",
        "ss_network_dropout": "None",
        "ss_learning_rate": "0.0001",
        "ss_text_encoder_lr": "5e-05",
        "ss_resolution": "(512, 512)",
        "ss_clip_skip": "None",
        "ss_num_train_images": "21",
        "ss_num_batches_per_epoch": "11",
        "ss_num_epochs": "17",
        "ss_epoch": "17",
        "ss_steps": "100",
        "ss_total_batch_size": "4",
        "ss_min_snr_gamma": "5.0",
        "ss_noise_offset": "None",
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.01,betas=(0.9, 0.999),eps=1e-08)",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": "lorac/0.1.0",
        "modelspec.title": "cyberpunk",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "modelspec.license": "CC-BY-4.0",
        "modelspec.tags": "cat, neon",
        "modelspec.usage_hint": "<lora:cyberpunk:0.8> catstyle",
        "lorac.plan_hash": plan.plan_hash,
        "lorac.base_digest": "b" * 64,
        "lorac.data_digest": "d" * 64,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_nothing_of_the_clock_is_in_it(found: dict[str, str]) -> None:
    """A1111 would show any ss_training_started_at as a date, so there is none."""
    assert not {key for key in found if "started_at" in key or "finished_at" in key or key.endswith(".date")}


def test_the_hashes_are_those_that_kohya_s_trainer_writes(
    tensors: dict[str, Any], found: dict[str, str]
) -> None:
    """kohya hashes what the library serialises with the `ss_*` metadata alone (train_util.py 48d368fa)."""
    trained = {key: value for key, value in found.items() if key.startswith("ss_")}
    data = safetensors.torch.save(tensors, trained)
    body = data[8 + int.from_bytes(data[:8], "little") :]

    assert found["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert found["modelspec.hash_sha256"] == "0x" + hashlib.sha256(body).hexdigest()
    assert found["sshs_legacy_hash"] == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]


def test_the_legacy_hash_of_a_file_over_a_mebibyte_depends_on_its_bytes() -> None:
    """A file up to 1 MiB has the hash of nothing; one bit in the 17th 64 KiB changes that of a larger one."""
    import torch

    large = {"w": torch.zeros(2**19)}
    other = {"w": large["w"].clone().index_fill(0, torch.tensor(2**18 + 1000), 1.0)}
    data = safetensors.torch.save(large, {"ss_a": "é"})

    found = metadata.hashes(large, {"ss_a": "é"})
    assert found.legacy == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert found.legacy != metadata.hashes(other, {"ss_a": "é"}).legacy
    assert metadata.hashes({"w": torch.zeros(8)}, {}).legacy == "e3b0c442"


def test_what_the_user_left_empty_is_left_out(trained: cases.Trained, tensors: dict[str, Any]) -> None:
    words = dict.fromkeys(("description", "author", "license", "trigger", "notes"), "")
    plan = cases.a_plan(trained, tags=(), versions={}, **words)

    found = metadata.complete(plan, tensors, "cyberpunk", 100, "")

    assert {key for key in found if key.startswith("modelspec.")} == {
        f"modelspec.{key}"
        for key in (
            "sai_model_spec",
            "architecture",
            "implementation",
            "title",
            "resolution",
            "usage_hint",
            "prediction_type",
            "hash_sha256",
        )
    }


def test_a_schedule_that_ends_in_pure_noise_is_said(trained: cases.Trained, tensors: dict[str, Any]) -> None:
    plan = cases.a_plan(trained)
    for ends in (True, False):
        architecture = {**plan.program.base.architecture, "scheduler": {ZERO_SNR: ends}}
        base = attrs.evolve(plan.program.base, architecture=architecture)
        of = attrs.evolve(plan, program=attrs.evolve(plan.program, base=base))
        found = metadata.complete(of, tensors, "cyberpunk", 100, "")
        assert found["ss_zero_terminal_snr"] == str(ends)


def test_v_prediction_is_said(trained: cases.Trained, tensors: dict[str, Any]) -> None:
    plan = cases.a_plan(trained)
    program = attrs.evolve(plan.program, base=attrs.evolve(plan.program.base, prediction_type="v_prediction"))
    found = metadata.complete(attrs.evolve(plan, program=program), tensors, "cyberpunk", 100, "")

    assert (found["modelspec.prediction_type"], found["ss_base_model_version"]) == ("v", "sd_v1_v")


@settings(max_examples=25, deadline=None)
@given(
    captions=st.lists(st.text(max_size=400), min_size=1, max_size=40),
    folder=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60),
)
def test_no_caption_makes_a_header_that_a_consumer_cannot_read(captions: list[str], folder: str) -> None:
    trained = {"unet": {"mid_block.attentions.0.proj_in": cases.pair()}}
    items = cases.items(
        (f"{folder}/{n}.png", caption, 1, (512, 512), (512, 512)) for n, caption in enumerate(captions)
    )
    plan = cases.a_plan(trained, items=items)
    tensors = kohya.tensors(sd1, trained, plan.program.adapter, "fp16")  # type: ignore[arg-type]

    data = own.serialise(tensors, metadata.complete(plan, tensors, "cyberpunk", 100, ""))

    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    assert data[8:10] == b'{"' and length < 2**20
    assert all(
        c.isprintable() for table in json.loads(header["ss_tag_frequency"]).values() for c in "".join(table)
    )
    assert safetensors.torch.load(data).keys() == tensors.keys()
