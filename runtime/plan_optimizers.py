"""The optimizers of a plan, told apart by `name`. A part of `runtime.plan`.

- A learning rate is in `Train`; here is what each rule has besides. Weight decay is decoupled and times the rate.
- `state_bits` says what its state is kept in: 8 is block-wise quantised moments, which AdamW alone has.
"""

from __future__ import annotations

from typing import Literal

import attrs

StateBits = Literal[8, 32]


@attrs.frozen(kw_only=True)
class AdamW:
    """Loshchilov and Hutter 2019."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    state_bits: StateBits = 32
    name: Literal["adamw"] = "adamw"


@attrs.frozen(kw_only=True)
class Adafactor:
    """Shazeer and Stern 2018, at the rate of the plan. `beta1` 0 is off.

    The second moment's decay at step t is 1 - t^-`decay_power`. `scale_parameter` takes the rate in shares of a
    weight's root mean square.
    """

    beta1: float
    decay_power: float
    eps: float
    clip_threshold: float
    scale_parameter: bool
    weight_decay: float
    state_bits: Literal[32] = 32
    name: Literal["adafactor"] = "adafactor"


@attrs.frozen(kw_only=True)
class Lion:
    """Chen et al. 2023."""

    beta1: float
    beta2: float
    weight_decay: float
    state_bits: Literal[32] = 32
    name: Literal["lion"] = "lion"


@attrs.frozen(kw_only=True)
class Prodigy:
    """Mishchenko and Defazio 2024: the plan's rate scales the one that it estimates. `growth_rate` 0 is no limit."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    d0: float
    d_coef: float
    growth_rate: float
    bias_correction: bool
    safeguard_warmup: bool
    state_bits: Literal[32] = 32
    name: Literal["prodigy"] = "prodigy"


@attrs.frozen(kw_only=True)
class ScheduleFreeAdamW:
    """Defazio et al. 2024: what is sampled, evaluated and exported is the average that it keeps."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    state_bits: Literal[32] = 32
    name: Literal["schedule_free_adamw"] = "schedule_free_adamw"


Optimizer = AdamW | Adafactor | Lion | Prodigy | ScheduleFreeAdamW

PACKAGES: dict[str, str] = {
    "lion": "pytorch-optimizer",
    "prodigy": "pytorch-optimizer",
    "schedule_free_adamw": "pytorch-optimizer",
}
"""Whose version decides an optimizer's bytes, beside torch's and transformers'."""
