"""The architectures lorac knows: one file each, one line each in this closed registry."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, cast

from runtime.errors import Problem, SpecError

if TYPE_CHECKING:
    from runtime.families.protocol import Family

# bitsandbytes looks for kernels on a hub at import, and has torch load its compiler, for half a second, for what stands
# in for kernels that are not there; and bars for the reading of a file are noise in a log.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of each kernel that it did not find

FAMILIES = {
    "sd1": "runtime.families.sd1",
    "sd2": "runtime.families.sd2",
    "sdxl": "runtime.families.sdxl",
    "sd3": "runtime.families.sd3",
    "flux1": "runtime.families.flux1",
    "z_image": "runtime.families.z_image",
    "qwen_image": "runtime.families.qwen_image",
    "svd": "runtime.families.svd",
    "causal_lm": "runtime.families.causal_lm",
}


def family(name: str) -> Family:
    """The family of that name. Imports only its file. Raises SpecError for a name that is not in the registry."""
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise SpecError(Problem("base.family", f"must be one of {known}, got {name!r}"))
    return cast("Family", import_module(FAMILIES[name]))
