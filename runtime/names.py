"""What a LoRA may be called: its file's stem is also how prompts call it, `<lora:NAME:0.8>`. And a word with a file.

Imports nothing heavy, so that a spec can be refused at once instead of after the training.
"""

from __future__ import annotations

import re

PROMPT_SYNTAX = "<>:,"
"""A1111 reads `<kind:name:weight>` up to the first `>` and splits at `:`; additional-networks turns `,`
into `_`."""

ALIASES = {"none", "addams"}
"""A1111 takes no LoRA by these names (`forbidden_network_aliases`)."""

DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
"""Windows opens a device by these names, whatever the suffix."""

_NAME = r"[A-Za-z](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
WORD = f"<{_NAME}>|{_NAME}"
"""A word that has vectors of its own: what is between < and > is a file's name, and what programs call it by."""

TAKEN = {"pytorch_lora_weights": "diffusers' file has that name"}
ENDINGS = {
    ".preview": "its files would be taken for another LoRA's picture",
    ".lorac": "its sidecar would be taken for another LoRA's manifest",
}


def wrong(name: str) -> str:
    """What is wrong with a LoRA's name; empty if nothing is."""
    low = name.lower()
    bad = sorted({c for c in name if c in PROMPT_SYNTAX or c in '/\\"|?*' or not c.isprintable()})
    if not name:
        return "must not be empty"
    if len(name.encode()) > 200:
        return f"must be at most 200 bytes long, got {len(name.encode())}"
    if bad:
        return f"must not contain {' '.join(map(repr, bad))}: prompts and file systems give it a meaning"
    if name[0] in ". " or name[-1] in ". ":
        return "must not begin or end with a dot or a space"
    if low in ALIASES:
        return "is a name under which WebUI loads nothing"
    if low in TAKEN:
        return f"must be another: {TAKEN[low]}"
    if re.split(r"[ .]", low)[0] in DEVICES:
        return "is the name of a device on Windows"
    return next((f"must not end in {end}: {why}" for end, why in ENDINGS.items() if low.endswith(end)), "")


def of_word(word: str) -> str:
    """What programs call a word with vectors of its own by, after its file: "crest" for "<crest>"."""
    return word.strip("<>")
