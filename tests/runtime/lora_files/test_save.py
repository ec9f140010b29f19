from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import SpecError
from runtime.lora_files.convert import converted
from runtime.lora_files.save import Mark, check_name, claim, save
from runtime.safeio.safetensors import body_sha256, read_header
from tests.consumers import a1111
from tests.runtime.lora_files import cases
from tests.runtime.lora_files.cases import adapter

MINE, OTHERS = Mark("resized", ("a" * 64,)), Mark("resized", ("b" * 64,))


def test_only_a_file_made_of_the_same_is_replaced(tmp_path: Path) -> None:
    of, out = adapter(tmp_path, cases.kohya()), tmp_path / "out.safetensors"
    claim(out, MINE, force=False)
    save(of, out, MINE)

    claim(out, MINE, force=False)
    for mark in (OTHERS, Mark("converted", MINE.sources)):
        with pytest.raises(SpecError, match="is there already and is not made of the same"):
            claim(out, mark, force=False)
        claim(out, mark, force=True)
    with pytest.raises(SpecError):
        claim(of.path, MINE, force=False)


def test_a_file_that_cannot_be_read_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_bytes(b"notes")

    with pytest.raises(SpecError):
        claim(tmp_path / "out.safetensors", MINE, force=False)


def test_a_folder_is_replaced_only_where_it_is_an_adapter(tmp_path: Path) -> None:
    made, _ = converted(adapter(tmp_path, cases.kohya()), "peft")
    save(made, tmp_path / "lora", MINE)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")

    claim(tmp_path / "lora", MINE, force=False)
    claim(tmp_path / "lora", OTHERS, force=True)
    for folder, force in (("lora", False), ("photos", False), ("photos", True)):
        with pytest.raises(SpecError, match="is a folder that holds something else"):
            claim(tmp_path / folder, OTHERS, force=force)


def test_hashes_are_made_anew_and_the_name_follows(tmp_path: Path) -> None:
    said = {
        "ss_output_name": "old",
        "sshs_model_hash": "0" * 64,
        "modelspec.title": "Old",
        "modelspec.usage_hint": "<lora:old:0.8> cat",
        "modelspec.hash_sha256": "0x0",
        "ss_seed": "3",
    }

    path = save(adapter(tmp_path, cases.kohya(), said), tmp_path / "new.safetensors", MINE)[0]

    metadata, body = read_header(path).metadata, body_sha256(path)
    assert metadata["sshs_model_hash"] == body and metadata["modelspec.hash_sha256"] == f"0x{body}"
    assert metadata["modelspec.usage_hint"] == "<lora:new:0.8> cat" and metadata["modelspec.title"] == "new"
    assert metadata["ss_seed"] == "3" and metadata["lorac.resized_from"] == "a" * 64
    assert a1111.card(path).alias == "new" and a1111.card(path).shorthash == body[:12]


@pytest.mark.parametrize(
    ("name", "style"), [("a.pt", "kohya"), ("a", "diffusers"), ("a.safetensors", "peft")]
)
def test_a_name_that_does_not_say_what_it_is_is_refused(name: str, style: str) -> None:
    with pytest.raises(SpecError):
        check_name(Path(name), style)
