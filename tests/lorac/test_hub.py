"""A base that is named as the Hub does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorac import hub

NAME = "stabilityai/stable-diffusion-xl-base-1.0"


def test_a_model_that_is_not_here_is_told_with_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert hub.hint(NAME).endswith(f": hf download {NAME} --local-dir models/stable-diffusion-xl-base-1.0")


def test_a_model_in_the_hubs_cache_is_told_by_its_newest_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}" / "snapshots"
    for age, commit in enumerate(("new", "old")):
        (snapshots / commit).mkdir(parents=True)
        os.utime(snapshots / commit, (1000 - age, 1000 - age))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert hub.hint(NAME) == f'it is in the Hub\'s cache: base="{snapshots / "new"}"'


@pytest.mark.parametrize(
    "path", ["models/base.safetensors", "base", "../models/base", "/a/b", "a/b/c", "m/x.gguf"]
)
def test_a_path_is_no_name_of_the_hub(path: str) -> None:
    assert hub.hint(path) == ""
