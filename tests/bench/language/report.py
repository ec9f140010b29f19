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
    "trained_per_cpu_second",
    "tokens_per_second",
    "seconds_per_step",
    "cpu_seconds_per_step",
    "start_seconds",
    "peak_bytes",
    "step_peak_bytes",
    "last_loss",
    "held_out_loss",
)
SPEEDS = {
    "trained_per_cpu_second": "Speeds are compared by CPU seconds: other work on the core changes one thread's less "
    "than the clock's.",
    "trained_per_second": "Speeds are compared by seconds of the clock.",
}
MODELS = {"smollm2": "SmolLM2-135M-Instruct"}
GOALS = {"speed": 1.3, "memory": 0.8}
"""Issue 5: lorac's speed and memory, as ratios to the fastest peer's."""


def figures(
    setting: Setting,
    ways: Sequence[Way],
    runs: Mapping[str, list[dict[str, Any]]],
    tried: Sequence[dict[str, Any]],
    threads: int,
    arguments: str,
) -> dict[str, Any]:
    """All that was measured, with what it was measured on."""
    speed = speed_of(threads)
    summaries = [summary(way, runs[way.name]) for way in ways]
    shown = {name: value for name, value in cattrs.unstructure(setting).items() if "/" not in str(value)}
    return {
        "command": f"python -m tests.bench.language {arguments}".strip(),
        "day": datetime.date.today().isoformat(),
        "machine": machine(threads),
        "speed": speed,
        "versions": all_versions(),
        "model": MODELS.get(Path(setting.model).name, "A random model (nothing here is a figure)"),
        "setting": shown,
        "tried": list(tried),
        "ways": summaries,
        "ratios": ratios(summaries, speed),
    }


def speed_of(threads: int) -> str:
    """The figure that speeds are compared by: other work on the core changes one thread's CPU seconds less."""
    return "trained_per_cpu_second" if threads == 1 else "trained_per_second"


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


def ratios(ways: Sequence[dict[str, Any]], speed: str) -> list[dict[str, Any]]:
    """lorac over the fastest peer, of medians, for each kind."""
    found = []
    for kind in sorted({way["kind"] for way in ways}):
        like = [way for way in ways if way["kind"] == kind and way["runs"]]
        mine = [way for way in like if way["trainer"] == "lorac"]
        others = [way for way in like if way["trainer"] != "lorac"]
        if not mine or not others:
            continue
        fastest = max(others, key=lambda way: way[speed]["median"])
        found.append(
            {
                "kind": kind,
                "against": fastest["name"],
                "speed": ratio(mine[0], fastest, speed),
                "memory": ratio(mine[0], fastest, "peak_bytes"),
                "held_out_loss": mine[0]["held_out_loss"]["median"] - fastest["held_out_loss"]["median"],
            }
        )
    return found


def page(found: Mapping[str, Any]) -> str:
    """The figures for people, as Markdown."""
    setting, machine = found["setting"], found["machine"]
    lines = [
        "# Language models: lorac, peft with Transformers' Trainer, TRL's SFTTrainer, LitGPT",
        "",
        f"{found['model']} on the Jargon File; LoRA of rank {setting['rank']} on all linear layers of the blocks, "
        f"loss on the answers, {setting['steps']} steps of {setting['batch']} rows, or of {setting['packed_batch']} "
        f"packed sequences of {setting['length']} tokens. {machine['processor']}, {machine['threads']} threads, "
        f"{found['day']}. Each run is its own process; its first {setting['warm_up']} steps do not count for speed.",
        "",
        SPEEDS[found["speed"]],
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()) + ".",
        "",
        "| | runs | trained tokens per CPU second, median (min-max) | per second | peak memory, MiB | start, s "
        "| last loss | held-out loss |",
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
        lines += ["| | trained tokens per CPU second | peak memory, MiB |", "| --- | ---: | ---: |"]
        lines += [_tried(one) for one in found["tried"]]
    lines += ["", f"Made by `{found['command']}`."]
    return "\n".join(lines) + "\n"


def _row(way: Mapping[str, Any]) -> str:
    if not way["runs"]:
        return f"| {way['name']} | 0 | failed | | | | | |"
    speed = way["trained_per_cpu_second"]
    return (
        f"| {way['name']} | {way['runs']} | {speed['median']:.1f} ({speed['min']:.1f}-{speed['max']:.1f}) "
        f"| {way['trained_per_second']['median']:.1f} | {way['peak_bytes']['median'] / 2**20:,.0f} "
        f"| {way['start_seconds']['median']:.1f} | {way['last_loss']['median']:.4f} "
        f"| {way['held_out_loss']['median']:.4f} |"
    )


def _tried(one: Mapping[str, Any]) -> str:
    if one.get("failed"):
        return f"| {one['name']} | failed | |"
    return f"| {one['name']} | {one['trained_per_cpu_second']:.1f} | {one['peak_bytes'] / 2**20:,.0f} |"


def all_versions() -> dict[str, str]:
    """Also of the peers that are in environments of their own alone."""
    pinned = (one.partition("==") for one in (peers.TRL, peers.LITGPT))
    return {**versions(PACKAGES), **{name: number for name, _, number in pinned}}
