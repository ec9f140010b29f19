"""What is said of a folder that is no base."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.families.inspect import inspect
from runtime.safeio import digest


@pytest.mark.parametrize("inside", ["model.Q4_1.gguf", "v1-5.safetensors", "sdxl/model_index.json"])
def test_a_folder_around_a_model_is_told_by_the_model_in_it(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).touch()
    meant = tmp_path / inside if inside.endswith(("gguf", "safetensors")) else tmp_path / "sdxl"
    with pytest.raises(InputError) as refused:
        inspect(tmp_path, digest.sha256_file)
    assert refused.value.lines() == [
        f"error: {tmp_path}: has neither a model_index.json nor a config.json",
        f"hint: give what is in it: {meant}",
    ]


def test_an_empty_folder_is_told_what_a_base_is(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        inspect(tmp_path, digest.sha256_file)
    assert refused.value.problems[0].hint == "give a folder of diffusers or Transformers, or one file"
