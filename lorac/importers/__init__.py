"""The configs lorac reads in: one file for each trainer, one line each in this closed registry.

An importer is a pure function of parsed data: it gives the spec's values, and for every key of the source what became
of it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from lorac.importers.ledger import Draft

IMPORTERS = {
    "original": "lorac.importers.original",
    "kohya": "lorac.importers.kohya",
    "kohya-gui": "lorac.importers.kohya_gui",
    "ai-toolkit": "lorac.importers.ai_toolkit",
    "onetrainer": "lorac.importers.onetrainer",
    "simpletuner": "lorac.importers.simpletuner",
    "llama-factory": "lorac.importers.llama_factory",
    "axolotl": "lorac.importers.axolotl",
    "lora": "lorac.importers.finished",
}


class Importer(Protocol):
    """One trainer's config."""

    TITLE: str
    """As people call it: "kohya sd-scripts' TOML"."""

    def recognise(self, config: Any) -> bool:
        """Whether parsed data is this trainer's, from its keys alone."""

    def companions(self, config: Any) -> dict[str, str]:
        """Other files that the config names and that belong to it: the key that names one -> its path as written."""

    def convert(self, config: Any, companions: Mapping[str, Any]) -> Draft:
        """The spec's values and each key's fate. `companions` has the parsed files that were found, by key."""


def importer(name: str) -> Importer:
    """The importer of that name. Imports only its file."""
    return cast(Importer, import_module(IMPORTERS[name]))
