"""The disk that a plan reckons with is what its cache takes when it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorac.estimate.encoded import encoded_bytes
from tests.runtime.plans import carry_out, tiny_plan

HEADER = 2048
"""Most bytes that an entry's own header takes."""


@pytest.mark.parametrize("text_encoder", [False, True], ids=["text cached", "text trained"])
def test_the_cache_takes_what_was_reckoned(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, text_encoder: bool
) -> None:
    of = tiny_plan(tiny_base, tiny_data, text_encoder=text_encoder)
    (tmp_path / "run").mkdir()
    carry_out(of, tmp_path / "run")
    entries = [path for path in tmp_path.joinpath("cache").rglob("*") if path.is_file()]
    reckoned = encoded_bytes(of.program)

    assert entries
    assert reckoned <= sum(path.stat().st_size for path in entries) <= reckoned + HEADER * len(entries)
