"""Broken plans, configs and LoRA files, the command that is given each, and the whole message that it must end in.

`CASES` maps a file's name to its case; `make_bad_files(root)` makes them all. Messages are as from within `root`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import attrs
import torch
from safetensors.torch import save

from runtime import plan
from tests.lorac.plans import a_plan

REPLAN = "hint: make the plan again: lorac plan SPEC"
A_CONFIG = "hint: give a trainer's config (YAML, TOML or JSON) or a LoRA's .safetensors"
KNOWN = (
    "hint: lorac knows the original's YAML, kohya sd-scripts' TOML, the kohya_ss GUI's JSON,"
    " ai-toolkit's job, OneTrainer's JSON, SimpleTuner's config, LLaMA-Factory's YAML, axolotl's YAML, a finished LoRA"
)


@attrs.frozen
class Case:
    """A file's bytes (None: there is no such file), a command that reads it, and what that ends in."""

    data: Callable[[], bytes] | None
    command: tuple[str, ...]
    code: int
    lines: list[str]


def text() -> str:
    return plan.dumps(a_plan())


def edited() -> bytes:
    data = json.loads(text())
    data["program"]["adapter"]["rank"] += 1
    return json.dumps(data).encode()


def other_types() -> bytes:
    data = json.loads(text())
    data["program"]["train"]["steps"] = "many"
    data["program"]["train"]["seed"] = 1.5
    del data["program"]["adapter"]["alpha"]
    data["outputs"]["nmae"] = "x"
    return json.dumps(data).encode()


class Runs:
    """What a pickle does when it is read by Python's own reader."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("touch canary",)


def lora() -> bytes:
    return save(
        {"lora_unet_q.lora_down.weight": torch.ones(2, 8), "lora_unet_q.lora_up.weight": torch.ones(8, 2)}
    )


DIFF, IMPORT, INSPECT = ("diff",), ("import",), ("lora", "inspect")

CASES = {
    "gone.json": Case(
        None,
        DIFF,
        4,
        ["error: gone.json: cannot be read: No such file or directory", "hint: give the path of a plan.json"],
    ),
    "cut.json": Case(
        lambda: text().encode().partition(b"by_kind")[0],
        DIFF,
        4,
        [
            "error: cut.json:3: is not JSON: unterminated string starting at (column 5)",
            REPLAN,
        ],
    ),
    "edited.json": Case(
        edited,
        DIFF,
        4,
        ["error: edited.json: plan_hash does not match the program: the plan was edited or damaged", REPLAN],
    ),
    "types.json": Case(
        other_types,
        DIFF,
        4,
        [
            "error: types.json: plan.program.adapter.alpha is missing",
            "error: types.json: plan.program.train.steps: expected int, got str 'many'",
            "error: types.json: plan.program.train.seed: expected int, got float 1.5",
            "error: types.json: plan.outputs: there is no such field (nmae)",
            REPLAN,
        ],
    ),
    "twice.json": Case(
        lambda: b'{"format": 1, "format": 1}',
        DIFF,
        4,
        ['error: twice.json: key "format" is given twice', REPLAN],
    ),
    "nan.json": Case(
        lambda: b'{"format": NaN}', DIFF, 4, ["error: nan.json: NaN is not a JSON number", REPLAN]
    ),
    "newer.json": Case(
        lambda: b'{"format": 99}',
        DIFF,
        4,
        [
            f"error: newer.json: is a plan of format 99, and this lorac reads format {plan.FORMAT}",
            "hint: take the newer lorac, or compile it anew from its spec: lorac plan SPEC",
        ],
    ),
    "other.json": Case(
        lambda: b'{"name": "a package"}',
        DIFF,
        4,
        ["error: other.json: is not a lorac plan: it has no `format`", REPLAN],
    ),
    "latin.json": Case(
        lambda: '{"name": "é"}'.encode("latin-1"),
        DIFF,
        4,
        ["error: latin.json: cannot be read: is not UTF-8 (byte 10)", "hint: give the path of a plan.json"],
    ),
    "unknown.yaml": Case(
        lambda: b"colour: red\nsize: 3\n",
        IMPORT,
        3,
        [
            "error: unknown.yaml: is no trainer's config that lorac knows: its keys are colour, size",
            KNOWN,
        ],
    ),
    "tabs.yaml": Case(
        lambda: b"model:\n\tbase: x\n",
        IMPORT,
        3,
        [
            "error: tabs.yaml: is not YAML: found character '\\t' that cannot start any token (line 2)",
            A_CONFIG,
        ],
    ),
    "runs.yaml": Case(
        lambda: b"a: !!python/object/apply:os.system ['touch canary']\n",
        IMPORT,
        3,
        [
            "error: runs.yaml: has a tag that would have Python run code (line 1); nothing of it was run",
            "hint: take the tag out: a config is data",
        ],
    ),
    "twice.yaml": Case(
        lambda: b"network_dim: 4\nnetwork_dim: 8\n",
        IMPORT,
        3,
        ["error: twice.yaml: is not YAML: 'network_dim' is given twice (line 1)", A_CONFIG],
    ),
    "empty.toml": Case(
        lambda: b"", IMPORT, 3, ["error: empty.toml: is empty", "hint: give a trainer's config, or a LoRA"]
    ),
    "picture.png": Case(
        lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        IMPORT,
        3,
        ["error: picture.png: is neither a safetensors file nor UTF-8 text (byte 0)", A_CONFIG],
    ),
    "cut.safetensors": Case(
        lambda: lora()[:-40],
        INSPECT,
        3,
        ["error: cut.safetensors: is truncated: 264 bytes, expected 304", "hint: fetch the file again"],
    ),
    "page.safetensors": Case(
        lambda: b"<!DOCTYPE html><html>404 Not Found</html>",
        INSPECT,
        3,
        [
            "error: page.safetensors: is a web page, not a model",
            "hint: fetch it again; the site may want you to log in first",
        ],
    ),
    "empty.safetensors": Case(
        lambda: b"",
        INSPECT,
        3,
        ["error: empty.safetensors: is empty (0 bytes)", "hint: fetch the file again"],
    ),
    "model.safetensors": Case(
        lambda: save({"conv_in.weight": torch.ones(4, 4)}),
        INSPECT,
        3,
        [
            "error: model.safetensors: has no key that an adapter's keys end in",
            "hint: give a LoRA; a whole model goes to --base or extract",
        ],
    ),
    "runs.ckpt": Case(
        lambda: pickle.dumps({"state_dict": Runs()}),
        INSPECT,
        3,
        [
            "error: runs.ckpt: is a pickle but not a checkpoint that torch.save wrote",
            "hint: give the model as .safetensors",
        ],
    ),
}


def make_bad_files(root: Path) -> None:
    """Write every file into `root`."""
    for name, case in CASES.items():
        if case.data is not None:
            (root / name).write_bytes(case.data())


def arguments(name: str) -> tuple[str, ...]:
    """How `lorac` is called with a case's file; `diff` takes two."""
    case = CASES[name]
    return (*case.command, name, *[name] * (case.command == DIFF))
