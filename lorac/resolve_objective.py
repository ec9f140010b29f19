"""The loss of a program with nothing open: what the spec says, as the base's family takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lorac import spec
from lorac.parts import spec_place
from runtime import plan
from runtime.errors import Problem, SpecError

if TYPE_CHECKING:
    from runtime.families.protocol import Family


def objective_of(wanted: spec.Train, of: Family, prediction_type: plan.PredictionType) -> plan.Objective:
    """The loss, and how noise and times are drawn. Raises SpecError for what the family has not."""
    problems = list(_not_for(wanted, of, prediction_type))
    if problems:
        raise SpecError(problems)
    has_threshold = wanted.loss in plan.WITH_THRESHOLD
    return plan.Objective(
        snr_gamma=float(wanted.snr_gamma or 0),
        debiased=wanted.debiased,
        noise_offset=float(wanted.noise_offset),
        pyramid_iterations=wanted.pyramid_iterations,
        pyramid_discount=float(wanted.pyramid_discount) if wanted.pyramid_iterations else 0.0,
        input_perturbation=float(wanted.input_perturbation),
        loss_type=wanted.loss,
        huber_schedule=_schedule(wanted, prediction_type) if has_threshold else "constant",
        huber_c=float(wanted.huber_c) if has_threshold else 0.0,
        neftune_alpha=float(wanted.neftune_alpha or 0),
        **{**of.OBJECTIVE, **_flow_times(wanted)},
    )


def _schedule(wanted: spec.Train, prediction_type: plan.PredictionType) -> plan.HuberSchedule:
    if isinstance(wanted.huber_schedule, spec.Auto):
        return "exponential" if prediction_type == "flow" else "snr"
    return wanted.huber_schedule


def _flow_times(wanted: spec.Train) -> dict[str, Any]:
    given = {field: getattr(wanted, field) for field in ("timesteps", "timestep_shift")}
    return {field: value for field, value in given.items() if not isinstance(value, spec.Auto)}


def _not_for(wanted: spec.Train, of: Family, prediction_type: plan.PredictionType) -> Iterator[Problem]:
    """What the spec asks for and a loss of this family has not."""
    if not of.OBJECTIVE:
        for field in _flow_times(wanted):
            what = f"train.{field} is for rectified flows, and the base is a {of.TITLE}"
            yield Problem(spec_place(wanted, field), what)
    if of.KIND == "clips":
        values = {"loss_type": wanted.loss != "l2", "snr_gamma": wanted.snr_gamma is not None}
        for field in plan.NOT_OF_CLIPS:
            if values.get(field, getattr(wanted, field, False)):
                said = "loss" if field == "loss_type" else field
                what = f"train.{said} is for pictures, and a {of.TITLE} learns from clips"
                yield Problem(spec_place(wanted, said), what, "leave it out")
    if prediction_type == "flow":
        by_snr = {
            "snr_gamma": wanted.snr_gamma is not None,
            "debiased": wanted.debiased,
            "huber_schedule": wanted.huber_schedule == "snr",
        }
        for field in (field for field, is_set in by_snr.items() if is_set):
            what = f"train.{field} goes by the SNR of a diffusion, and a {of.TITLE} is a rectified flow"
            hint = 'set "exponential" or "constant"' if field == "huber_schedule" else "leave it out"
            yield Problem(spec_place(wanted, field), what, hint)
