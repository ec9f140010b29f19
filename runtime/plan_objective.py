"""The loss of a plan. A part of `runtime.plan`, which is where others find it."""

from __future__ import annotations

from typing import Literal

import attrs

Timesteps = Literal["uniform", "logit_normal"]
LossType = Literal["l2", "l1", "huber", "smooth_l1"]
HuberSchedule = Literal["constant", "exponential", "snr"]

WITH_THRESHOLD: tuple[LossType, ...] = ("huber", "smooth_l1")
"""Losses that are square below a threshold and linear above it."""


@attrs.frozen(kw_only=True)
class Objective:
    """The loss, and the noise that a picture is mixed with. 0 is off wherever a field is a number.

    - `snr_gamma`: min-SNR weighting (Hang et al. 2023); `debiased`: weighting by 1 / √SNR (Yu et al. 2023).
    - `noise_offset`: noise common to a channel; `pyramid_iterations` levels of coarser noise, each `pyramid_discount`
      of the one before; `input_perturbation`: noise that is not to be predicted (Ning et al. 2023).
    - `loss_type`: huber and smooth_l1 change from square to linear at a threshold, which is `huber_c` or grows to 1
      with what is left of the picture, as `huber_schedule` says (Khrapov et al. 2024).
    - `neftune_alpha`: noise on token embeddings (Jain et al. 2023).
    - `timesteps` and `timestep_shift`: how a rectified flow's times are drawn (Esser et al. 2024); a shift of 1 is off,
      0 goes by the picture's size.
    """

    snr_gamma: float = 0.0
    debiased: bool = False
    noise_offset: float = 0.0
    pyramid_iterations: int = 0
    pyramid_discount: float = 0.0
    input_perturbation: float = 0.0
    loss_type: LossType = "l2"
    huber_schedule: HuberSchedule = "constant"
    huber_c: float = 0.0
    neftune_alpha: float = 0.0
    timesteps: Timesteps = "uniform"
    timestep_shift: float = 1.0


DENOISING = (
    "snr_gamma",
    "debiased",
    "noise_offset",
    "pyramid_iterations",
    "input_perturbation",
    "loss_type",
)
"""What only a denoiser's loss has."""

NOT_OF_CLIPS = tuple(field for field in DENOISING if field != "noise_offset")
"""What of it the loss of clips, by EDM's noise levels, has not."""


def wrong_objective(objective: Objective, kind: str, prediction_type: str) -> list[str]:
    """What an objective may not say, by the kind of data and by what the base predicts."""
    found = []
    has_threshold = objective.loss_type in WITH_THRESHOLD
    off = Objective()
    if kind == "text":
        for field in DENOISING:
            if getattr(objective, field) != getattr(off, field):
                found.append(f"train.objective.{field} is for pictures, and the data are text")
    elif objective.neftune_alpha:
        found.append("train.objective.neftune_alpha is for language models, and the data are pictures")
    if kind == "clips":
        for field in NOT_OF_CLIPS:
            if getattr(objective, field) != getattr(off, field):
                found.append(f"train.objective.{field} is for pictures, and the data are clips")
    if prediction_type == "flow":
        for field in ("snr_gamma", "debiased"):
            if getattr(objective, field):
                found.append(
                    f"train.objective.{field} goes by the SNR, which a rectified flow's loss has none of"
                )
        if has_threshold and objective.huber_schedule == "snr":
            found.append(
                "train.objective.huber_schedule goes by the SNR, which a rectified flow's loss has none of"
            )
    if has_threshold != (objective.huber_c > 0):
        found.append(f"train.objective.huber_c is {objective.huber_c} with loss_type {objective.loss_type!r}")
    if not 0 <= objective.pyramid_discount < 1 or objective.pyramid_iterations < 0:
        found.append("train.objective has pyramid noise out of range")
    if objective.input_perturbation < 0:
        found.append("train.objective.input_perturbation must be at least 0")
    return found
