"""Each trainer's small config, as a draft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorac.importers import importer, parse
from lorac.importers.ledger import Draft
from tests.lorac.importers.configs import CONFIGS


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """The parsed data of a text."""

    def parsed(text: str) -> Any:
        (tmp_path / "config").write_text(text, encoding="utf-8")
        return parse.read(tmp_path / "config")

    return parsed


@pytest.fixture
def convert(read: Any) -> Any:
    """A draft of an importer's small config, with its companions, after words of it were replaced."""

    def converted(name: str, **replaced: str) -> Draft:
        text, others = CONFIGS[name]
        for old, new in replaced.items():
            assert f"{old}" in text
            text = text.replace(old, new)
        config = read(text)
        named = importer(name).companions(config)
        found = {key: read(others[path]) for key, path in named.items() if path in others}
        return importer(name).convert(config, found)

    return converted
