"""What the fields of a spec's `Train` must say together: see `lorac.agree`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorac.agree import Disagreement
from lorac.parts import Auto, default_of, reads

if TYPE_CHECKING:
    from lorac.spec_train import Train


@reads("snr_gamma", "debiased")
def weighs_by_the_snr_once(train: Train) -> Iterator[Disagreement]:
    """The loss is weighed by the SNR in one way."""
    if train.snr_gamma is not None and train.debiased:
        yield train, "debiased", "and train.snr_gamma both weigh the loss by the SNR", "keep one of the two"


@reads("loss", "huber_schedule", "huber_c")
def thresholds_have_a_loss(train: Train) -> Iterator[Disagreement]:
    """A threshold is said only where the loss has one."""
    if train.loss in ("huber", "smooth_l1"):
        return
    for field in ("huber_schedule", "huber_c"):
        if getattr(train, field) != default_of(type(train), field):
            yield train, field, f"is set, and train.loss {train.loss!r} has no threshold", 'set loss="huber"'


@reads("epochs", "steps")
def epochs_or_steps(train: Train) -> Iterator[Disagreement]:
    """The length is said once."""
    if train.epochs is not None and train.steps is not None:
        what = f"and train.epochs are both given: steps={train.steps}, epochs={train.epochs}"
        yield train, "steps", what, "keep one of the two, set the other to None"
    if train.epochs is None and train.steps is None:
        yield train, "epochs", "and train.steps are both None", "give one of the two"


@reads("steps", "warmup_steps")
def warmup_ends(train: Train) -> Iterator[Disagreement]:
    """The warm-up is over before the training is."""
    if train.steps is not None and train.warmup_steps > train.steps:
        what = f"must be at most train.steps {train.steps}, got {train.warmup_steps}"
        yield train, "warmup_steps", what, "warm up for about a tenth of the steps"


@reads("warmup_steps", "warmup_ratio")
def warmup_is_said_once(train: Train) -> Iterator[Disagreement]:
    """In steps or as a share of them."""
    if train.warmup_steps and train.warmup_ratio:
        what = f"and train.warmup_steps are both given: {train.warmup_ratio} and {train.warmup_steps}"
        yield train, "warmup_ratio", what, "keep one of the two"


@reads("scheduler", "cycles", "decay_steps", "decay_ratio", "min_ratio", "steps", "warmup_steps")
def curve_has_its_numbers(train: Train) -> Iterator[Disagreement]:
    """A number of one curve is set beside that curve alone; one that falls at its end says when."""
    curve = train.scheduler
    for field, ours in (
        ("cycles", ("cosine_with_restarts",)),
        ("decay_steps", ("warmup_stable_decay",)),
        ("decay_ratio", ("warmup_stable_decay",)),
    ):
        if curve not in ours and getattr(train, field) != default_of(type(train), field):
            yield train, field, f"is for {ours[0]}, and train.scheduler is {curve!r}", "leave it out"
    if curve == "constant" and train.min_ratio:
        yield train, "min_ratio", "is set, and train.scheduler 'constant' does not fall", "leave it out"
    if curve != "warmup_stable_decay":
        return
    if train.decay_steps and train.decay_ratio:
        what = f"and train.decay_steps are both given: {train.decay_ratio} and {train.decay_steps}"
        yield train, "decay_ratio", what, "keep one of the two"
    if not train.decay_steps and not train.decay_ratio:
        what = "is 'warmup_stable_decay', and nothing says when it falls"
        yield train, "scheduler", what, "set decay_ratio, such as 0.2"
    if train.steps is not None and train.decay_steps + train.warmup_steps > train.steps:
        what = f"and train.warmup_steps are more than train.steps {train.steps}"
        yield train, "decay_steps", what, "fall for about a fifth of the steps"


LEAST_SCALE = 0.1
"""Below it, a learning rate is not meant as a scale of Prodigy's own (its authors: leave it at 1)."""


@reads("optimizer", "learning_rate", "text_encoder_learning_rate", "lora_plus_ratio", "scheduler")
def optimizer_has_its_rate(train: Train) -> Iterator[Disagreement]:
    """Prodigy finds one rate for all weights, and what is schedule-free takes no schedule."""
    from lorac.spec import Prodigy, ScheduleFreeAdamW

    rate, optimizer = train.learning_rate, train.optimizer
    if isinstance(optimizer, ScheduleFreeAdamW) and train.scheduler != "constant":
        what = (
            f"is {train.scheduler!r}, and ScheduleFreeAdamW averages its weights instead of lowering its rate"
        )
        yield train, "scheduler", what, 'leave it out, or "constant"'
    if not isinstance(optimizer, Prodigy):
        return
    if rate < LEAST_SCALE:
        what = f"is {rate:g}, and with Prodigy it only scales the rate that Prodigy finds: nothing would be learned"
        yield train, "learning_rate", what, "leave it out: it is 1 with Prodigy"
    if not isinstance(train.text_encoder_learning_rate, Auto) and train.text_encoder_learning_rate != rate:
        what = "is another than train.learning_rate, and Prodigy finds one rate for all weights"
        yield train, "text_encoder_learning_rate", what, "leave it out"
    if train.lora_plus_ratio != 1:
        what = "gives B a rate of its own, and Prodigy finds one rate for all weights"
        yield train, "lora_plus_ratio", what, "leave it out"


@reads("optimizer", "ema")
def averages_once(train: Train) -> Iterator[Disagreement]:
    """A schedule-free optimizer's weights are an average already."""
    from lorac.spec import ScheduleFreeAdamW

    if train.ema is not None and isinstance(train.optimizer, ScheduleFreeAdamW):
        yield train, "ema", "is set, and ScheduleFreeAdamW averages its weights already", "leave it out"
