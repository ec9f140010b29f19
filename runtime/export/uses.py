"""What to do with a finished LoRA, in the few lines that a run ends with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runtime.export.manifest import Manifest
from runtime.safeio import paths

INSTALLS = {"webui": "models/Lora", "comfyui": "models/loras"}
"""`lorac install`'s option -> the folder that it copies to."""
MAKERS = " ("
"""What begins a program's full name's second part: "Stable Diffusion WebUI (AUTOMATIC1111)"."""


def told(made: Manifest, folder: Path) -> Iterator[str]:
    """The LoRA's file, where it is copied to, how it is called; of a language model how it is asked."""
    run = paths.display(folder)
    if not made.usage.resolution:
        yield f"The LoRA is the folder {run}; with it and without: lorac chat {run}"
        return
    yield f"The LoRA is {run}/{made.files[0].name}"
    programs: dict[str, list[str]] = {}
    for one in made.consumers:
        if one.folder in INSTALLS.values() and one.loads in ("loads", "partial"):
            programs.setdefault(one.folder, []).append(one.consumer.partition(MAKERS)[0])
    if programs:
        places = "; ".join(f"{' and '.join(names)}: {place}" for place, names in programs.items())
        options = " or ".join(f"--{way} DIR" for way, place in INSTALLS.items() if place in programs)
        yield f"Copy it to {places} (lorac install {run} {options} does)"
    words = f", trigger words: {made.usage.trigger_words}" if made.usage.trigger_words else ""
    yield f"Call it with weight {made.usage.preferred_weight:g}{words}"
