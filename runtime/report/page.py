"""A run's page: one file with everything in it, that runs no script but ours and asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined

from runtime import plan
from runtime.human import clock, size
from runtime.report.charts import Chart, Line, noisy
from runtime.report.gather import Point, Run, gather
from runtime.safeio import atomic

FILE = "report.html"


def write(folder: Path) -> Path:
    """Write a run's page into its folder, whole or not at all. Raises InputError where the folder is no run."""
    path = folder / FILE
    atomic.write_text(path, render(gather(folder)))
    return path


def render(run: Run, live: str = "") -> str:
    """The page as HTML; `live` is the run's present state where the page is to follow it."""
    words = _words(run)
    sections = [(one, title) for one, title in SECTIONS.items() if one in _present(run, words)]
    return page("run.html.jinja", run=run, live=live, sections=sections, **words)


def page(template: str, **words: Any) -> str:
    """A template of ours, all words escaped, with the style and the script that alone are allowed to act."""
    templates = files("runtime.report").joinpath("templates")
    style, script = (templates.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    return _environment().get_template(template).render(style=style, script=script, **hashes, **words)


SECTIONS = {
    "summary": "Summary",
    "advice": "Advice",
    "curves": "Curves",
    "samples": "Samples",
    "grid": "Checkpoints and weights",
    "answers": "Answers",
    "data": "Data",
    "memory": "Memory",
    "plan": "Decisions",
    "use": "Use it",
    "again": "Make it again",
}


def _present(run: Run, words: dict[str, Any]) -> set[str]:
    filled = {
        "advice": words["advice"],
        "curves": words["charts"],
        "samples": run.sheet or run.samples,
        "grid": run.grid or words["evaluation"],
        "answers": run.answers,
        "use": words["uses"],
    }
    return {name for name in SECTIONS if filled.get(name, True)}


@cache
def _environment() -> Environment:
    loader = PackageLoader("runtime.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls a script or a style by (CSP 3, section 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# ------------------------------------------------------------------------------------------------------------- words


def _words(run: Run) -> dict[str, Any]:
    of = run.plan
    return {
        "headline": headline(run),
        "summary": list(_summary(run)),
        "notes": [
            *(run.manifest.run.notes if run.manifest else ()),
            *((run.evaluation or {}).get("warnings") or ()),
        ],
        "choice": _choice(run),
        "charts": charts(run),
        "data_line": _data_line(of),
        "files": [(f.path, f.samples, f.trained, f"{f.weight:g}") for f in _text_files(of)],
        "memory_line": _memory_line(of.estimate),
        "kinds": kinds(of.estimate),
        "decisions": [(d.field, d.value, d.reason) for d in of.estimate.decisions],
        "rejected": [
            (r.point, size(r.peak_bytes), f"{r.seconds_per_step:.3g} s", r.reason)
            for r in of.estimate.rejected
        ],
        "uses": _uses(run),
        "words": run.manifest.usage.trigger_words if run.manifest else of.outputs.trigger,
        "clip_skip": of.program.base.clip_skip,
        "provenance": list(_provenance(run)),
        "advice": _advice(run.advice),
        "evaluation": _evaluation(run.evaluation),
    }


def headline(run: Run) -> str:
    """How far it is, of what, on what."""
    steps = run.plan.program.train.steps
    how = "finished" if run.manifest else f"at step {run.step:,}"
    where = run.manifest.run.device if run.manifest else run.plan.program.compute.device
    return f"{how}; {steps:,} steps on {run.plan.outputs.base_name}, {where}"


def _summary(run: Run) -> Iterator[tuple[str, str]]:
    of = run.plan
    train, adapter = of.program.train, of.program.adapter
    yield "steps", f"{run.step:,} of {train.steps:,}"
    seconds = sum(point.value for point in run.metrics.get("seconds", ()))
    if run.manifest:
        seconds = run.manifest.run.seconds
    if seconds:
        yield "time in steps", f"{clock(seconds)} (planned {clock(of.estimate.seconds)})"
    loss = run.metrics.get("loss", ())
    if loss:
        few = max(1, min(20, len(loss) // 4))
        yield "loss", f"{_mean(loss[:few]):.4g} → {_mean(loss[-few:]):.4g}"
    held = run.metrics.get("held_out/loss", ())
    if held:
        yield "held-out loss", f"{held[0].value:.4g} → {held[-1].value:.4g}"
    perplexity = run.metrics.get("held_out/perplexity", ())
    if perplexity:
        yield "perplexity", f"{perplexity[0].value:.1f} → {perplexity[-1].value:.1f}"
    yield "adapter", f"{adapter.method}, rank {adapter.rank}"
    yield "batch", f"{train.effective_batch} = {train.micro_batch} × {train.accumulation}"
    if memory := run.metrics.get("memory"):
        yield (
            "memory, most",
            f"{size(max(p.value for p in memory))} (planned {size(plan.planned_memory(of))})",
        )


def charts(run: Run) -> list[Chart]:
    """What was measured, in the order in which people look."""
    seen = run.metrics
    made = []
    if loss := seen.get("loss"):
        about = "of each step, on what it trains on, and its mean"
        made.append(Chart(title="Loss", about=about, lines=noisy("loss", loss)))
    if held := seen.get("held_out/loss"):
        about = "on samples that are never trained on"
        made.append(Chart(title="Held-out loss", about=about, lines=(Line("held out", held, "dotted"),)))
    if memory := seen.get("memory"):
        planned = float(plan.planned_memory(run.plan))
        limit = (Point(memory[0].step, planned), Point(memory[-1].step, planned))
        both = (Line("used", memory), Line("planned", limit, "dashed"))
        made.append(Chart(title="Memory", about="used, against the planned peak", lines=both, unit="bytes"))
    if norm := seen.get("grad_norm"):
        made.append(Chart(title="Gradient norm", about="before clipping", lines=noisy("norm", norm)))
    if rate := seen.get("lr"):
        made.append(Chart(title="Learning rate", about="of the schedule", lines=(Line("rate", rate),)))
    if seconds := seen.get("seconds"):
        planned_step = run.plan.estimate.seconds_per_step
        limit = (Point(seconds[0].step, planned_step), Point(seconds[-1].step, planned_step))
        lines = (*noisy("measured", seconds), Line("planned", limit, "dashed"))
        made.append(Chart(title="Seconds a step", about="measured and planned", lines=lines, unit="seconds"))
    return made


@attrs.frozen
class Kind:
    """A kind of memory at the peak: its place and share of the bar, from 0 to 100."""

    name: str
    left: float
    share: float
    size: str


def kinds(estimate: plan.Estimate) -> list[Kind]:
    """The peak by kind, the largest first; the bar's whole width is what the card lets us use."""
    whole, left, made = max(estimate.usable_bytes, sum(estimate.by_kind.values()), 1), 0.0, []
    for name, count in sorted(estimate.by_kind.items(), key=lambda pair: (-pair[1], pair[0])):
        share = 100 * count / whole
        made.append(Kind(name, round(left, 3), round(share, 3), size(count)))
        left += share
    return made


def _memory_line(estimate: plan.Estimate) -> str:
    return f"{size(estimate.peak_bytes)} of {size(estimate.usable_bytes)} usable on {estimate.card}"


def _data_line(of: plan.Plan) -> str:
    data = of.program.data
    if isinstance(data, plan.Texts):
        held = f", {data.held_out:.0%} of them held out" if data.held_out else ""
        count = sum(file.samples for file in data.files)
        return f"{count:,} conversations and texts{held}, in sequences of {data.length} tokens"
    flips = ", each mirrored too" if data.flip else ""
    views = f", each in {plan.picture_variants(data)} views" if data.augment else ""
    return f"{len(data.items):,} pictures at {data.resolution} pixels{views}{flips}"


def _text_files(of: plan.Plan) -> tuple[plan.TextFile, ...]:
    return of.program.data.files if isinstance(of.program.data, plan.Texts) else ()


def _uses(run: Run) -> list[tuple[str, str, str, str]]:
    if run.manifest is None:
        return []
    return [
        (
            one.consumer,
            f"{one.loads}: {one.reason}",
            f"{one.file} → {one.folder}" if one.folder else one.file,
            one.call,
        )
        for one in run.manifest.consumers
    ]


def _provenance(run: Run) -> Iterator[tuple[str, str]]:
    of = run.plan
    yield "plan", of.plan_hash
    yield (
        "base",
        f"{of.outputs.base_name} ({of.program.base.family}), {of.program.base.digest or 'not locked'}",
    )
    yield "data", of.program.data.digest or "not locked"
    yield "versions", ", ".join(f"{name} {number}" for name, number in sorted(of.program.versions.items()))
    yield "seed", str(of.program.train.seed)
    if of.outputs.license:
        yield "licence", of.outputs.license
    if run.manifest:
        yield "started", run.manifest.run.started_at
        yield "finished", run.manifest.run.finished_at
        for file in run.manifest.files:
            yield file.name, f"{size(file.size)}, sha256 {file.sha256}"


def _choice(run: Run) -> str:
    """Which checkpoint was exported and which weight is recommended, in the words of what chose them."""
    said = []
    if run.manifest and run.manifest.run.choice:
        chosen = run.manifest.run.choice
        said.append(f"The LoRA is that of step {chosen.step}: {chosen.rule}.")
    found = (run.evaluation or {}).get("chosen")
    if isinstance(found, dict) and found.get("weight_reason"):
        said.append(f"Recommended weight {_cell(found.get('weight'))}: {found['weight_reason']}.")
    return " ".join(said)


def _advice(advice: Any) -> list[tuple[str, str, str]]:
    """advice.json as rows; what is not of its shape is left out."""
    found = advice.get("findings") if isinstance(advice, dict) else None
    rows = found if isinstance(found, list) else []
    return [
        (str(one.get("finding", "")), str(one.get("figure", "")), str(one.get("change", "")))
        for one in rows
        if isinstance(one, dict)
    ]


SHOWN_OF_ROWS = {
    "loss": "held-out loss",
    "perplexity": "perplexity",
    "similarity": "like its prompt",
    "closeness": "like the data",
    "diversity": "diversity",
    "nearest": "nearest picture",
    "copies": "copies",
    "repetition": "repetition",
}
"""What is shown of evaluation.json's rows (`runtime.evaluation.results`), by the words for it."""


def _evaluation(evaluation: dict[str, Any] | None) -> tuple[list[str], list[list[str]]] | None:
    """evaluation.json as a table, the base first; columns that no row fills are left out."""
    found = evaluation or {}
    rows = [row for row in (found.get("base"), *(found.get("rows") or ())) if isinstance(row, dict)]
    names = [name for name in SHOWN_OF_ROWS if any(row.get(name) is not None for row in rows)]
    if not names:
        return None
    lines = [
        [_cell(row.get("step")), _cell(row.get("weight")), *(_cell(row.get(name)) for name in names)]
        for row in rows
    ]
    return ["step", "weight", *(SHOWN_OF_ROWS[name] for name in names)], lines


def _cell(value: Any) -> str:
    """A number, or a figure with its interval."""
    if value is None:
        return ""
    if isinstance(value, dict):
        mean, low, high = (value.get(key) for key in ("mean", "low", "high"))
        return (
            f"{mean:.4g} ({low:.4g} to {high:.4g})" if low is not None and high is not None else _cell(mean)
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mean(points: Iterable[Point]) -> float:
    values = [point.value for point in points]
    return sum(values) / len(values)
