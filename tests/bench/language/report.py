"""The benchmark's figures and its page."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cattrs

from tests.bench.figures import machine, ratio, spreads, versions
from tests.bench.language import peers
from tests.bench.language.setting import Setting, Way

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers")
FIGURES = (
    "trained_per_second",
    "tokens_per_second",
    "seconds_per_step",
    "cpu_seconds_per_step",
    "start_seconds",
    "peak_bytes",
    "step_peak_bytes",
    "last_loss",
    "held_out_loss",
)
MODELS = {"smollm2": "SmolLM2-135M-Instruct"}
GOALS = {"speed": 1.3, "memory": 0.8}
"""Issue 5: lorac's speed and memory, as ratios to the faster peer's."""


def figures(
    setting: Setting,
    ways: Sequence[Way],
    runs: Mapping[str, list[dict[str, Any]]],
    tried: Sequence[dict[str, Any]],
    threads: int,
    arguments: str,
) -> dict[str, Any]:
    """All that was measured, with what it was measured on."""
    shown = {name: value for name, value in cattrs.unstructure(setting).items() if "/" not in str(value)}
    return {
        "command": f"python -m tests.bench.language {arguments}".strip(),
        "day": datetime.date.today().isoformat(),
        "machine": machine(threads),
        "versions": all_versions(),
        "model": MODELS.get(Path(setting.model).name, "A random model (nothing here is a figure)"),
        "setting": shown,
        "tried": list(tried),
        "ways": [summary(way, runs[way.name]) for way in ways],
        "ratios": ratios([summary(way, runs[way.name]) for way in ways]),
    }


def summary(way: Way, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A way's runs, with least, median and most of each figure."""
    return {
        "name": way.name,
        "trainer": way.trainer,
        "kind": way.kind,
        "runs": len(runs),
        **spreads(runs, FIGURES),
        "all": list(runs),
    }


def ratios(ways: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """lorac over the faster peer, of medians, for each kind."""
    found = []
    for kind in sorted({way["kind"] for way in ways}):
        like = [way for way in ways if way["kind"] == kind and way["runs"]]
        mine = [way for way in like if way["trainer"] == "lorac"]
        others = [way for way in like if way["trainer"] != "lorac"]
        if not mine or not others:
            continue
        faster = max(others, key=lambda way: way["trained_per_second"]["median"])
        found.append(
            {
                "kind": kind,
                "against": faster["name"],
                "speed": ratio(mine[0], faster, "trained_per_second"),
                "memory": ratio(mine[0], faster, "peak_bytes"),
                "held_out_loss": mine[0]["held_out_loss"]["median"] - faster["held_out_loss"]["median"],
            }
        )
    return found


def page(found: Mapping[str, Any]) -> str:
    """The figures for people, as Markdown."""
    setting, machine = found["setting"], found["machine"]
    lines = [
        "# Language models: lorac, peft with Transformers' Trainer, TRL's SFTTrainer",
        "",
        f"{found['model']} on the Jargon File; LoRA of rank {setting['rank']} on all linear layers of the blocks, "
        f"loss on the answers, {setting['steps']} steps of {setting['batch']} rows, or of {setting['packed_batch']} "
        f"packed sequences of {setting['length']} tokens. {machine['processor']}, {machine['threads']} threads, "
        f"{found['day']}. Each run is its own process; its first {setting['warm_up']} steps do not count for speed.",
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()) + ".",
        "",
        "| | runs | trained tokens/s, median (min-max) | all tokens/s | peak memory, MiB | start, s | last loss "
        "| held-out loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(way) for way in found["ways"]),
        "",
    ]
    for one in found["ratios"]:
        lines.append(
            f"- {one['kind']}: lorac is {one['speed']:.2f}× as fast as {one['against']} "
            f"(goal ≥ {GOALS['speed']}), "
            f"takes {one['memory']:.2f}× its memory (goal ≤ {GOALS['memory']}); held-out loss "
            f"{one['held_out_loss']:+.4f}."
        )
    if found["tried"]:
        lines += ["", "Tried first, a few steps each, to find each peer's fastest way:", ""]
        lines += ["| | trained tokens/s | peak memory, MiB |", "| --- | ---: | ---: |"]
        lines += [_tried(one) for one in found["tried"]]
    lines += ["", f"Made by `{found['command']}`."]
    return "\n".join(lines) + "\n"


def _row(way: Mapping[str, Any]) -> str:
    if not way["runs"]:
        return f"| {way['name']} | 0 | failed | | | | | |"
    speed = way["trained_per_second"]
    return (
        f"| {way['name']} | {way['runs']} | {speed['median']:.1f} ({speed['min']:.1f}-{speed['max']:.1f}) "
        f"| {way['tokens_per_second']['median']:.1f} | {way['peak_bytes']['median'] / 2**20:,.0f} "
        f"| {way['start_seconds']['median']:.1f} | {way['last_loss']['median']:.4f} "
        f"| {way['held_out_loss']['median']:.4f} |"
    )


def _tried(one: Mapping[str, Any]) -> str:
    if one.get("failed"):
        return f"| {one['name']} | failed | |"
    return f"| {one['name']} | {one['trained_per_second']:.1f} | {one['peak_bytes'] / 2**20:,.0f} |"


def all_versions() -> dict[str, str]:
    """TRL's too, which is in the peers' environment alone."""
    return {**versions(PACKAGES), "trl": peers.TRL.partition("==")[2]}
