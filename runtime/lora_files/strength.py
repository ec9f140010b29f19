"""How strong an adapter is beside the weights it changes: ‖ΔW‖ / ‖W‖ of its modules."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from runtime.lora_files.adapter import read
from runtime.lora_files.bake import modules_of
from runtime.lora_files.bases import opened
from runtime.lora_files.factors import spectrum
from runtime.safeio import digest

MOST_MODULES = 64
"""Modules that are looked at, evenly spread: of a large base, reading every weight would take minutes."""


def relative_norm(adapter: Path, base: Path) -> float | None:
    """The median over modules of the change's Frobenius norm over the weight's; None where no norm can be taken.

    Raises InputError for a file that is no adapter, a base that is not here, or one of other names.
    """
    updates = read(adapter)
    with torch.inference_mode(), opened(base, digest.sha256_file) as model:
        pairs = list(modules_of(updates, model).items())
        found = []
        for (component, module), update in pairs[:: -(-len(pairs) // MOST_MODULES) or 1]:
            stored, sigma = model.weights.get((component, f"{module}.weight")), spectrum(update)
            if stored and sigma is not None:
                weight = model.load(stored[0]).float().norm().item()
                found.append(sigma.square().sum().sqrt().item() / weight if weight else 0.0)
    return statistics.median(found) if found else None
