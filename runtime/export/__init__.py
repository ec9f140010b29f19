"""A trained adapter becomes the files that others load.

write.py
    export(folder, weights, plan, facts, previews) -> Manifest; finished(folder, plan) -> Path | None
    lora_bytes(plan, weights, step); checkpoint_name(plan, step); claim(folder, plan); read_manifest(path)
weights.py
    Weights: component -> module path -> part -> tensor
kohya.py, diffusers.py
    tensors(family, weights, adapter, dtype) -> {key: tensor}
metadata.py, dataset.py
    what the WebUI's file says of itself
sidecars.py, pictures.py, consumers.py, manifest.py, names.py
    what lies beside it, who takes it, what it may be called
"""

from runtime.export.manifest import Choice, Facts, Manifest
from runtime.export.weights import Weights
from runtime.export.write import checkpoint_name, claim, export, finished, lora_bytes, read_manifest

__all__ = [
    "Choice",
    "Facts",
    "Manifest",
    "Weights",
    "checkpoint_name",
    "claim",
    "export",
    "finished",
    "lora_bytes",
    "read_manifest",
]
