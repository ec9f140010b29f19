from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtime.export.manifest import Manifest
from runtime.export.write import export
from tests.consumers.loaded import Changes
from tests.runtime.export import cases


@attrs.frozen
class Exported:
    """A folder with exported files, and what they must do to each module."""

    folder: Path
    manifest: Manifest
    changes: Changes
    architecture: dict[str, Any]

    @property
    def webui(self) -> Path:
        """The file in kohya's names."""
        return self.folder / f"{self.manifest.name}.safetensors"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Export random weights over these targets; `changed` goes to the plan. Each kind is made once."""
    made: dict[str, Exported] = {}

    def make(targets: dict[str, str] = cases.USUAL, **changed: Any) -> Exported:
        key = repr((targets, changed))
        if key not in made:
            architecture = cases.small()
            trained = cases.weights(architecture, targets)
            plan = cases.a_plan(trained, **changed)
            folder = tmp_path_factory.mktemp("exported")
            manifest = export(folder, trained, plan, cases.facts(), [cases.picture()])
            made[key] = Exported(folder, manifest, cases.changes(trained, plan.program.adapter), architecture)
        return made[key]

    return make
