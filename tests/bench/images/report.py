"""The picture benchmark's figures, its page and its panels."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import cattrs

from tests.bench.figures import machine, ratio, spreads, versions
from tests.bench.images.setting import ROOT, Setting, Way
from tests.bench.plot import Panel, bar

TITLE = "Pictures: lorac and diffusers' LoRA recipe"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "torchvision")
FIGURES = (
    "samples_per_second",
    "seconds_per_step",
    "cpu_seconds_per_step",
    "start_seconds",
    "seconds",
    "cpu_seconds",
    "peak_bytes",
    "last_loss",
)
REACHED, CPU_REACHED = "seconds_to_loss", "cpu_seconds_to_loss"
SHOWN = {
    "samples_per_second": ("samples a second (more is better)", 1.0),
    "peak_bytes": ("peak memory, MiB (less is better)", 2.0**-20),
    "start_seconds": ("seconds from the command to the first step (less is better)", 1.0),
    "seconds": ("seconds from the command to the last step (less is better)", 1.0),
    REACHED: ("seconds from the command to the held-out loss (less is better)", 1.0),
}
"""Figures of the chart, with their words and what they are multiplied by."""


def experiment(
    setting: Setting,
    ways: Sequence[Way],
    runs: Mapping[str, Sequence[dict[str, Any]]],
    tried: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """One experiment's runs, and lorac's figures over the recipe's.

    The held-out loss to reach is that of the run that ended highest: every run reached it.
    """
    every = [run for way in ways for run in runs[way.name]]
    losses = [run["held_out_loss"] for run in every if run["held_out_loss"] is not None]
    goal = max(losses) if losses else None
    measured = {way.name: [reaching(run, goal) for run in runs[way.name]] for way in ways}
    names = (*FIGURES, "held_out_loss", REACHED, CPU_REACHED) if losses else FIGURES
    summaries = [
        {
            "name": way.name,
            "trainer": way.trainer,
            "runs": len(measured[way.name]),
            **spreads(measured[way.name], names),
            "all": measured[way.name],
        }
        for way in ways
    ]
    shown = {k: v for k, v in cattrs.unstructure(setting).items() if str(ROOT) not in str(v) and v != ""}
    return {
        "title": setting.title,
        "setting": shown,
        "loss_to_reach": goal,
        "tried": [{name: run[name] for name in ("name", *FIGURES[:2], "peak_bytes")} for run in tried],
        "ways": summaries,
        "ratios": ratios(summaries),
    }


def reaching(run: dict[str, Any], goal: float | None) -> dict[str, Any]:
    """A run with the seconds to its first checkpoint whose held-out loss is no higher than `goal`."""
    if goal is None:
        return run
    first = next(one for one in run["curve"] if one["loss"] <= goal)
    return {**run, REACHED: first["seconds"], CPU_REACHED: first["cpu_seconds"]}


def ratios(ways: Sequence[dict[str, Any]]) -> dict[str, float]:
    """lorac over the recipe, of medians: above 1 is more of the figure."""
    mine = next((way for way in ways if way["trainer"] == "lorac" and way["runs"]), None)
    other = next((way for way in ways if way["trainer"] != "lorac" and way["runs"]), None)
    if mine is None or other is None:
        return {}
    names = (*FIGURES[:-1], REACHED, CPU_REACHED)
    return {name: ratio(mine, other, name) for name in names if name in mine and name in other}


def figures(experiments: Sequence[dict[str, Any]], threads: int, arguments: str) -> dict[str, Any]:
    """All that was measured, with what it was measured on."""
    return {
        "command": f"python -m tests.bench.images {arguments}".strip(),
        "day": datetime.date.today().isoformat(),
        "machine": machine(threads),
        "versions": versions(PACKAGES),
        "experiments": list(experiments),
    }


def panels(found: Mapping[str, Any]) -> list[Panel]:
    """The chart: each experiment's figures."""
    return [
        Panel(
            f"{one['title']}: {words}",
            tuple(bar(way, figure, scale) for way in one["ways"] if figure in way),
        )
        for one in found["experiments"]
        for figure, (words, scale) in SHOWN.items()
    ]


def page(found: Mapping[str, Any]) -> str:
    """The figures for people, as Markdown."""
    machine = found["machine"]
    lines = [
        f"# {TITLE}",
        "",
        "The recipe is diffusers' `train_text_to_image_lora.py`, written anew from its documentation: accelerate, "
        "peft's LoRA on the UNet's `to_q`, `to_k`, `to_v` and `to_out.0`, AdamW, a constant rate; each step encodes "
        "its pictures and captions. lorac trains the same modules and rank, and plans and encodes within its time. "
        f"{machine['processor']}, {machine['threads']} thread, {found['day']}, load "
        f"{machine['load']:.1f} at the end. Each run is its own process; the "
        "first steps do not count for speed.",
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()) + ".",
    ]
    for one in found["experiments"]:
        lines += ["", *_experiment(one)]
    lines += ["", f"Made by `{found['command']}`; the chart is bench_images.svg."]
    return "\n".join(lines) + "\n"


def _experiment(one: Mapping[str, Any]) -> list[str]:
    setting, goal = one["setting"], one["loss_to_reach"]
    said = f"{setting['steps']} steps of {setting['batch']}, rank {setting['rank']}, a checkpoint each "
    said = said + f"{setting['every']} steps." if setting["every"] else said.rpartition(", ")[0] + "."
    reached = (
        f" The held-out loss to reach is {goal:.4f}, where the run that ended highest ended." if goal else ""
    )
    lines = [
        f"## {one['title']}",
        "",
        said + reached,
        "",
        "| | runs | samples/s, median (min-max) | CPU s a step | start, s | to the last step, s (CPU) "
        "| to the loss, s (CPU) | peak memory, MiB | last loss | held-out loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(way) for way in one["ways"]),
        "",
    ]
    words = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in one["ratios"].items())
    lines.append(f"lorac's figures over the recipe's: {words}.")
    lines += ["", "Tried first, a few steps each: " + "; ".join(_tried(each) for each in one["tried"]) + "."]
    return lines


def _row(way: Mapping[str, Any]) -> str:
    if not way["runs"]:
        return f"| {way['name']} | 0 | failed | | | | | | | |"
    speed = way["samples_per_second"]
    reached = f"{way[REACHED]['median']:.1f} ({way[CPU_REACHED]['median']:.1f})" if REACHED in way else ""
    held_out = f"{way['held_out_loss']['median']:.4f}" if "held_out_loss" in way else ""
    return (
        f"| {way['name']} | {way['runs']} | {speed['median']:.2f} ({speed['min']:.2f}-{speed['max']:.2f}) "
        f"| {way['cpu_seconds_per_step']['median']:.3f} | {way['start_seconds']['median']:.1f} "
        f"| {way['seconds']['median']:.1f} ({way['cpu_seconds']['median']:.1f}) | {reached} "
        f"| {way['peak_bytes']['median'] / 2**20:,.0f} "
        f"| {way['last_loss']['median']:.4f} | {held_out} |"
    )


def _tried(one: Mapping[str, Any]) -> str:
    return f"{one['name']} {one['samples_per_second']:.2f} samples/s, {one['peak_bytes'] / 2**20:,.0f} MiB"
