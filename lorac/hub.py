"""Where the Hugging Face Hub's own programs keep a model on this machine: lorac fetches none."""

from __future__ import annotations

import os
import re
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)(?<!\.ckpt)(?<!\.gguf)")


def hint(path: str) -> str:
    """What to do about a base that is not here, where its path is a model's name on the Hub; else empty.

    The cache's layout: huggingface_hub's guide "Understand caching", models--OWNER--NAME/snapshots/COMMIT.
    """
    if not NAME.fullmatch(path):
        return ""
    if found := _snapshot(path):
        return f'it is in the Hub\'s cache: base="{found}"'
    fetch = f"hf download {path} --local-dir models/{Path(path).name}"
    return f"lorac fetches nothing. Fetch it, then give its folder: {fetch}"


def _snapshot(name: str) -> Path | None:
    """The snapshot of a model that was fetched last, where there is one."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    found = (cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/")
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
