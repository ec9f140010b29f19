"""What a run's folder tells, measured once. What cannot be measured says why."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs

from runtime import plan
from runtime.errors import LoracError
from runtime.evaluation import results
from runtime.evaluation.results import Evaluation
from runtime.report.gather import Run, gather
from runtime.safeio import images

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Evidence:
    """A run's files; `norm` is the median of ‖ΔW‖ / ‖W‖ over modules, `pixels` how far the last pictures are from the
    base's, in levels of 255; `evaluation` what `lorac eval` measured. Where one is None, `unknown` may say why."""

    run: Run
    has_diverged: bool
    norm: float | None
    pixels: float | None
    evaluation: Evaluation | None
    unknown: dict[str, str]

    @property
    def losses(self) -> list[float]:
        """Of each step."""
        return [point.value for point in self.run.metrics.get("loss", ())]

    @property
    def grad_norms(self) -> list[float]:
        """Of each step, before clipping."""
        return [point.value for point in self.run.metrics.get("grad_norm", ())]


def measured(folder: Path, has_diverged: bool = False) -> Evidence:
    """Read and measure a run's folder. Raises InputError where it is none."""
    run = gather(folder)
    unknown: dict[str, str] = {}

    def told(name: str, measure: Callable[[Run, Path], _T]) -> _T | None:
        try:
            return measure(run, folder)
        except LoracError as error:
            unknown[name] = str(error.problems[0])
            return None

    return Evidence(
        run=run,
        has_diverged=has_diverged,
        norm=told("norm", _norm),
        pixels=told("pixels", _pixels),
        evaluation=told("evaluation", _evaluation),
        unknown=unknown,
    )


def _evaluation(run: Run, folder: Path) -> Evaluation | None:
    """What `lorac eval` measured of this plan's run."""
    found = results.read(folder) if (folder / results.FILE).is_file() else None
    return found if found and found.plan_hash == run.plan.plan_hash else None


def _norm(run: Run, folder: Path) -> float | None:
    """Of the first file that the LoRA was written to; a language model's has a folder for one."""
    if run.manifest is None:
        return None
    webui = next((file.name for file in run.manifest.files if file.role == "webui"), "")
    from runtime.lora_files.strength import relative_norm

    return relative_norm(folder / webui, Path(run.plan.outputs.places.base))


def _pixels(run: Run, folder: Path) -> float | None:
    """The contact sheet's first two columns are the base's pictures and the LoRA's."""
    path, samples = folder / "sheet.png", run.plan.outputs.samples
    if not path.is_file() or not isinstance(samples, plan.Samples):
        return None
    import numpy as np

    from runtime.sheet import column

    page = images.open_picture(path)
    pairs = zip(*(column(page, place, len(samples.prompts)) for place in (0, 1)), strict=True)
    gaps = [np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean() for a, b in pairs]
    return float(statistics.fmean(gaps)) if gaps else None
