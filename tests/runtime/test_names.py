"""Names that a prompt, a file system or a consumer would not take."""

from __future__ import annotations

import pytest

from runtime import names

WRONG = {
    "": "must not be empty",
    "a:b": "must not contain ':': prompts and file systems give it a meaning",
    "a<b,c>": "must not contain ',' '<' '>': prompts and file systems give it a meaning",
    "../evil": "must not contain '/': prompts and file systems give it a meaning",
    "a\nb": "must not contain '\\n': prompts and file systems give it a meaning",
    ".hidden": "must not begin or end with a dot or a space",
    "a ": "must not begin or end with a dot or a space",
    "None": "is a name under which WebUI loads nothing",
    "addams": "is a name under which WebUI loads nothing",
    "pytorch_lora_weights": "must be another: diffusers' file has that name",
    "a.preview": "must not end in .preview: its files would be taken for another LoRA's picture",
    "a.lorac": "must not end in .lorac: its sidecar would be taken for another LoRA's manifest",
    "LPT1.v2": "is the name of a device on Windows",
    "é" * 101: "must be at most 200 bytes long, got 202",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_does_not_do_is_told_why(name: str) -> None:
    assert names.wrong(name) == WRONG[name]


@pytest.mark.parametrize(
    "name", ["cyberpunk", "neon-cats v1.5", "Ünïcode_猫", "nonesuch", "com", "a.lorac.b"]
)
def test_a_name_that_does(name: str) -> None:
    assert names.wrong(name) == ""
