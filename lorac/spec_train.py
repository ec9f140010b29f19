"""The words of a spec for how it is trained: length, optimizer, schedule, and the loss with its noise.

A part of `lorac.spec`, which is where others find them.
"""

from __future__ import annotations

from typing import Literal, get_args

import attrs

from lorac import agree_train
from lorac.parts import Auto, part, setting
from lorac.rules import a_part, choice, flag, number, whole
from lorac.spec_optimizers import OTHERS as OTHER_OPTIMIZERS
from lorac.spec_optimizers import AdamW, Optimizer, ScheduleFreeAdamW

LARGEST_SEED = 2**32 - 1
"""What every random generator takes (numpy's legacy one takes no more)."""
DEFAULT_EPOCHS = 10

Scheduler = Literal[
    "cosine", "constant", "linear", "polynomial", "cosine_with_restarts", "warmup_stable_decay", "rex"
]


@part(
    "train",
    agree_train.epochs_or_steps,
    agree_train.warmup_ends,
    agree_train.warmup_is_said_once,
    agree_train.curve_has_its_numbers,
    agree_train.optimizer_has_its_rate,
    agree_train.averages_once,
    agree_train.weighs_by_the_snr_once,
    agree_train.thresholds_have_a_loss,
)
class Train:
    """What is optimised, how, and for how long."""

    effective_batch: int = setting(
        whole(ge=1, le=65536, unit="samples"),
        "Samples per optimizer step; the planner never changes it.",
        default=4,
    )
    steps: int | None = setting(
        whole(ge=1, le=10_000_000, none="as epochs says"),
        "Optimizer steps; give this or epochs.",
        default=None,
    )
    epochs: int | None = setting(
        whole(ge=1, le=100_000, none="as steps says"),
        "Passes over the data; give this or steps.",
        default=attrs.Factory(lambda train: DEFAULT_EPOCHS if train.steps is None else None, takes_self=True),
        default_words=f"{DEFAULT_EPOCHS} where steps is not given",
    )
    optimizer: Optimizer = setting(
        a_part(AdamW, others=OTHER_OPTIMIZERS), "What moves the weights, and its numbers.", default=AdamW()
    )
    learning_rate: float = setting(
        number(gt=0, le=1),
        "Peak learning rate.",
        default=attrs.Factory(lambda train: getattr(train.optimizer, "RATE", AdamW.RATE), takes_self=True),
        default_words="the optimizer's: AdamW and Adafactor 1e-4, Lion 2e-5, Prodigy 1, ScheduleFreeAdamW 2.5e-4",
    )
    text_encoder_learning_rate: float | Auto = setting(
        number(gt=0, le=1, auto="open"), "The text encoder's; Auto() is learning_rate.", default=Auto()
    )
    lora_plus_ratio: float = setting(
        number(gt=0, le=1024),
        "B's learning rate in A's: 16 in LoRA+ (Hayou et al. 2024, arXiv:2402.12354); 1 is off.",
        default=1.0,
    )
    scheduler: Scheduler = setting(
        choice(*get_args(Scheduler)),
        "The learning rate's curve after warm-up, down to min_ratio of it (or constant).",
        default=attrs.Factory(
            lambda train: "constant" if isinstance(train.optimizer, ScheduleFreeAdamW) else "cosine",
            takes_self=True,
        ),
        default_words='"cosine"; "constant" with ScheduleFreeAdamW',
    )
    warmup_steps: int = setting(
        whole(ge=0, le=1_000_000, unit="steps"), "Steps in which it rises linearly from zero.", default=0
    )
    warmup_ratio: float = setting(
        number(ge=0, lt=1),
        "The same as a share of all steps, rounded up; give this or warmup_steps.",
        default=0.0,
    )
    power: float = setting(number(gt=0, le=10), "The polynomial scheduler's power.", default=1.0)
    cycles: int = setting(
        whole(ge=1, le=1000), "How often cosine_with_restarts falls, each time from the peak.", default=1
    )
    decay_steps: int = setting(
        whole(ge=0, le=10_000_000, unit="steps"),
        "The last steps, in which warmup_stable_decay falls.",
        default=0,
    )
    decay_ratio: float = setting(
        number(ge=0, le=1),
        "The same as a share of all steps, rounded up; give this or decay_steps.",
        default=0.0,
    )
    min_ratio: float = setting(
        number(ge=0, le=1), "Where the curve ends, as a share of the learning rate.", default=0.0
    )
    max_grad_norm: float = setting(
        number(ge=0, le=1000), "Gradients are clipped to this norm; 0 is off.", default=1.0
    )
    ema: float | None = setting(
        number(gt=0, lt=1, none="off"),
        "Decay of a moving average of the weights, such as 0.999, which is then what is sampled and exported.",
        default=None,
    )
    seed: int = setting(
        whole(ge=0, le=LARGEST_SEED), "Decides order, noise, timesteps and dropout.", default=0
    )
    snr_gamma: float | None = setting(
        number(gt=0, le=100, none="off"),
        "Min-SNR loss weighting's gamma, 5 in the paper (Hang et al. 2023, arXiv:2303.09556).",
        default=None,
    )
    debiased: bool = setting(
        flag(),
        "Weigh the loss by 1 / √SNR instead: debiased estimation (Yu et al. 2023, arXiv:2310.08442).",
        default=False,
    )
    loss: Literal["l2", "l1", "huber", "smooth_l1"] = setting(
        choice("l2", "l1", "huber", "smooth_l1"),
        "Squared error; or huber, at which outliers pull less (Khrapov et al. 2024, arXiv:2403.16728).",
        default="l2",
    )
    huber_schedule: Literal["constant", "exponential", "snr"] | Auto = setting(
        choice("constant", "exponential", "snr", auto="open"),
        "How the threshold of huber and smooth_l1 falls from 1 to huber_c with noise; Auto(): by the SNR, or "
        "exponentially where there is none.",
        default=Auto(),
    )
    huber_c: float = setting(
        number(gt=0, le=1), "The threshold at all noise; below it the error counts squared.", default=0.1
    )
    noise_offset: float = setting(
        number(ge=0, le=1), "Noise common to a channel, for dark and bright pictures.", default=0.0
    )
    pyramid_iterations: int = setting(
        whole(ge=0, le=16),
        "Levels of coarser noise added, for dark, bright and large things: 6 is usual (Whitaker 2023); 0 is off.",
        default=0,
    )
    pyramid_discount: float = setting(
        number(gt=0, lt=1), "Strength of each level in that of the one before.", default=0.4
    )
    input_perturbation: float = setting(
        number(ge=0, le=1),
        "Noise on a picture that is not to be predicted: 0.1 in the paper (Ning et al. 2023, arXiv:2301.11706).",
        default=0.0,
    )
    timesteps: Literal["uniform", "logit_normal"] | Auto = setting(
        choice("uniform", "logit_normal", auto="open"),
        "How a rectified flow's times are drawn (Esser et al. 2024, arXiv:2403.03206); Auto() is the family's usual.",
        default=Auto(),
    )
    timestep_shift: float | Auto = setting(
        number(ge=0, le=100, auto="open"),
        "How much later than drawn: 1 is off, 0 goes by the picture's size; Auto() is the family's usual.",
        default=Auto(),
    )
    neftune_alpha: float | None = setting(
        number(gt=0, le=1000, none="off"),
        "Noise on a language model's token embeddings, 5 in the paper (NEFTune, Jain et al. 2023, arXiv:2310.05914).",
        default=None,
    )
