"""Words of a stranger's file never reach the terminal as what a terminal obeys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from lorac import terminal
from tests.lorac.calling import Called, call

OBEYED = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r[bold]"
"""A title, a cleared screen, a colour in one byte, text from right to left, a line overwritten, rich's own markup."""


def printed(called: Called) -> str:
    """All that a command printed, of which every character must be one that is shown."""
    text = called.out + called.err
    assert all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)
    return text


@pytest.mark.parametrize("options", [(), ("--modules",)])
def test_a_lora_file_s_keys_and_metadata_are_shown_escaped(tmp_path: Path, options: tuple[str, ...]) -> None:
    name = f"lora_unet_{OBEYED}"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(8, 2)}
    file = tmp_path / "hostile.safetensors"
    save_file(tensors, file, {"ss_output_name": OBEYED, OBEYED: "x"})

    assert "owned" in printed(call("lora", "inspect", str(file), *options))
    as_json = call("lora", "inspect", str(file), "--json").out
    assert not re.search(
        "[\0-\x09\x0b-\x1f\x7f-\x9f]", as_json
    )  # it is for programs: what else there is stays


def test_a_config_s_keys_and_values_are_shown_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"model": {"base_model": OBEYED}, "training": {OBEYED: OBEYED}, "lora": {"rank": 4}, "data": {}}
    Path("config.json").write_text(json.dumps(config))

    assert "owned" in printed(call("import", "config.json"))


def test_a_file_s_name_is_shown_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{OBEYED}.json").write_text("{}")

    assert "owned" in printed(call("diff", f"{OBEYED}.json", f"{OBEYED}.json"))


def test_what_is_being_done_is_shown_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    is_a_terminal = SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True, fileno=lambda: -1))
    monkeypatch.setattr(terminal, "sys", is_a_terminal)
    monkeypatch.setattr(terminal, "click", SimpleNamespace(echo=lambda text, **_: said.append(text)))
    with terminal.telling() as tell:
        tell(OBEYED)

    assert said[0].removeprefix("\r\x1b[K").isprintable()
