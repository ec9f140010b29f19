"""Spec -> plan: resolve, search, assemble, hash."""

from __future__ import annotations

from pathlib import Path

from lorac import spec
from lorac.estimate import cards
from lorac.estimate.cost import Costs
from lorac.resolve import cache_folder, resolve
from lorac.search import fit
from runtime import plan


def compile_experiment(
    experiment: spec.Experiment, root: Path, spec_dir: Path, card: str | None = None, unlocked: bool = False
) -> plan.Plan:
    """Compile an experiment for a card (default: the spec's `fit.card`).

    `root` is the folder that lorac runs in; the spec's paths are relative to `spec_dir`. Raises SpecError,
    InputError (base or data) and MachineError (nothing fits).
    """
    found = cards.find(card or experiment.fit.card)
    resolved = resolve(experiment, root, spec_dir, found, unlocked)
    fitted = fit(resolved, Costs(found, cache_folder()))
    cost, train = fitted.cost, fitted.program.train
    estimate = plan.Estimate(
        card=found.name,
        card_bytes=found.memory,
        usable_bytes=found.usable,
        peak_bytes=cost.peak_bytes,
        by_kind=cost.by_kind,
        phases=cost.phases,
        host_bytes=cost.host_bytes,
        disk_bytes=cost.disk_bytes,
        seconds_per_step=cost.seconds_per_step,
        seconds=cost.seconds_per_step * train.steps,
        decisions=resolved.decisions + fitted.decisions,
        rejected=fitted.rejected,
    )
    return plan.make(fitted.program, resolved.outputs, estimate)
