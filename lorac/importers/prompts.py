"""Sample prompts as kohya's scripts write them: a line each, `--n` negative, `--w` `--h` size, `--d` seed, `--s` steps,
`--l` guidance (library/train_util.py, line_to_prompt_dict)."""

from __future__ import annotations

import re
from typing import Any

from lorac.importers.ledger import Ledger, Path

OPTIONS = {
    "n": "samples.negative_prompt",
    "w": "samples.width",
    "h": "samples.height",
    "d": "samples.seed",
    "s": "samples.steps",
    "l": "samples.guidance",
}
OPTION = re.compile(r"\s--([a-z]+)(?=\s|$)")


def set_prompts(book: Ledger, path: Path) -> None:
    """Carry prompts with the options of the first; lorac draws all prompts alike."""
    lines = [line.strip() for line in str(book.entries[path]).splitlines()]
    parsed = [_parsed(line) for line in lines if line and not line.startswith("#")]
    if not parsed or not book.carry("samples.prompts", tuple(prompt for prompt, _ in parsed), path):
        return
    options = parsed[0][1]
    for name, value in options.items():
        if name in OPTIONS:
            book.carry(OPTIONS[name], value, path)
        else:
            book.left(path, f"--{name} has no word in lorac; the prompts were carried")
    if any(other != options for _, other in parsed):
        book.left(
            path, "each prompt has options of its own; lorac draws all alike: those of the first were carried"
        )


def _parsed(line: str) -> tuple[str, dict[str, Any]]:
    prompt, *rest = OPTION.split(f" {line}")
    return prompt.strip(), {name: value.strip() for name, value in zip(rest[::2], rest[1::2], strict=True)}
