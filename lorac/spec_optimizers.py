"""The words of a spec for what moves the weights. A part of `lorac.spec`.

The learning rate is `train.learning_rate` whatever the optimizer; `RATE` is its default then.
"""

from __future__ import annotations

from typing import ClassVar

from lorac.parts import part, setting
from lorac.rules import flag, number

PLACE = "train.optimizer"

MEAN = "Decay of the gradient's mean."
SQUARES = "Decay of the squared gradient's mean."
EPS = "Added to the denominator."
DECAY = "Weight decay per step, times the learning rate."


@part(PLACE)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    RATE: ClassVar[float] = 1e-4

    beta1: float = setting(number(ge=0, lt=1), MEAN, default=0.9)
    beta2: float = setting(number(ge=0, lt=1), SQUARES, default=0.999)
    eps: float = setting(number(gt=0, le=1), EPS, default=1e-8)
    weight_decay: float = setting(number(ge=0, le=1), DECAY, default=0.01)


@part(PLACE)
class Adafactor:
    """Second moments in rows and columns, so hardly any state (Shazeer and Stern 2018, arXiv:1804.04235)."""

    RATE: ClassVar[float] = 1e-4

    beta1: float = setting(number(ge=0, lt=1), f"{MEAN[:-1]}; 0 keeps none.", default=0.0)
    decay_power: float = setting(
        number(gt=0, le=1), "The squared gradient's mean decays by 1 - step^-decay_power.", default=0.8
    )
    eps: float = setting(number(gt=0, le=1), "Added to the squared gradient.", default=1e-30)
    clip_threshold: float = setting(
        number(gt=0, le=1000), "A weight's update has this root mean square at most.", default=1.0
    )
    scale_parameter: bool = setting(
        flag(), "Take the rate in shares of a weight's root mean square, at least 0.001.", default=False
    )
    weight_decay: float = setting(number(ge=0, le=1), DECAY, default=0.0)


@part(PLACE)
class Lion:
    """The sign of a momentum: half of AdamW's state (Chen et al. 2023, arXiv:2302.06675).

    The paper's rates are 3 to 10 times smaller than AdamW's, its weight decays as many times larger.
    """

    RATE: ClassVar[float] = 2e-5

    beta1: float = setting(number(ge=0, lt=1), "Share of the momentum in a step's sign.", default=0.9)
    beta2: float = setting(number(ge=0, lt=1), "Decay of the momentum.", default=0.99)
    weight_decay: float = setting(number(ge=0, le=1), DECAY, default=0.05)


@part(PLACE)
class Prodigy:
    """AdamW that estimates its own rate (Mishchenko and Defazio 2024, arXiv:2306.06101).

    `train.learning_rate` scales the estimate: 1 as it is, which is the default.
    """

    RATE: ClassVar[float] = 1.0

    beta1: float = setting(number(ge=0, lt=1), MEAN, default=0.9)
    beta2: float = setting(number(ge=0, lt=1), SQUARES, default=0.999)
    eps: float = setting(number(gt=0, le=1), EPS, default=1e-8)
    weight_decay: float = setting(number(ge=0, le=1), DECAY, default=0.01)
    d0: float = setting(number(gt=0, le=1), "First estimate of the rate.", default=1e-6)
    d_coef: float = setting(number(gt=0, le=100), "Factor on the estimate: its usual knob.", default=1.0)
    growth_rate: float | None = setting(
        number(gt=1, le=1000, none="no limit"),
        "The estimate grows by this factor a step at most; 1.02 is a kind of warm-up.",
        default=None,
    )
    bias_correction: bool = setting(flag(), "Correct the first moments as Adam does.", default=False)
    safeguard_warmup: bool = setting(
        flag(), "Keep a warm-up's small rates out of the estimate.", default=False
    )


@part(PLACE)
class ScheduleFreeAdamW:
    """AdamW that averages its weights instead of lowering its rate (Defazio et al. 2024, arXiv:2405.15682).

    Samples, held-out losses and the LoRA are the average's. It takes no scheduler but "constant"; warm-up is welcome.
    """

    RATE: ClassVar[float] = 2.5e-4
    """2.5 times AdamW's, as the authors' own default is of Adam's."""

    beta1: float = setting(
        number(gt=0, lt=1), "Share of the average in where gradients are taken.", default=0.9
    )
    beta2: float = setting(number(ge=0, lt=1), SQUARES, default=0.999)
    eps: float = setting(number(gt=0, le=1), EPS, default=1e-8)
    weight_decay: float = setting(number(ge=0, le=1), DECAY, default=0.01)


OTHERS = (Adafactor, Lion, Prodigy, ScheduleFreeAdamW)
"""What `train.optimizer` may be besides AdamW."""

Optimizer = AdamW | Adafactor | Lion | Prodigy | ScheduleFreeAdamW
