"""A component with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from runtime.families import loading


def test_loading_a_component_draws_no_bar(tiny_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Though transformers was imported before the variable that turns its bars off was set."""
    transformers.utils.logging.enable_progress_bar()
    loading.from_folder(tiny_base, "text_encoder", transformers.CLIPTextModel, torch.float32)
    assert capfd.readouterr().err == ""
