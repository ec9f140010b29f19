"""Is the training stable? Loss and gradients, step by step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial

from lorac import figures
from lorac.advice.evidence import Evidence
from lorac.advice.looked import Looked, Moved, slower
from lorac.advice.thresholds import DOUBLE, DROWNED, GROWTH, NOISE, SPIKE, SPIKES

FEWEST = 20
"""Steps of which quarters can be compared."""
AROUND = 10
"""Steps to each side that a running median is over."""
NORMAL_MAD = 1.4826
"""The standard deviation of normal noise in its median absolute deviations."""
TOO_SHORT = f"fewer than {FEWEST} steps"

looked = partial(Looked, kind="unstable")


def divergence(of: Evidence) -> Looked:
    about, step = "divergence", of.run.step
    if not of.has_diverged:
        return looked(about=about, figure=f"every loss of {step} steps is finite")
    return looked(
        about=about,
        figure=f"no finite loss after step {step} of {of.run.plan.program.train.steps}",
        is_wrong=True,
        finding="the training diverged",
        source="the run ended with exit code 6",
        moves=slower(of.run.plan),
    )


def rising_loss(of: Evidence) -> Looked:
    """The mean of the last quarter above the first one's, beyond both intervals."""
    about = "loss from first to last quarter"
    if len(of.losses) < FEWEST:
        return looked(about=about, unknown=TOO_SHORT)
    first, last = (figures.mean(values) for values in quarters(of.losses))
    assert first is not None
    assert last is not None
    noise = math.hypot(first.high - first.mean, last.high - last.mean)
    return looked(
        about=about,
        figure=f"{first.mean:.4f} to {last.mean:.4f}, noise ± {noise:.4f}",
        is_wrong=last.mean - first.mean > noise,
        finding="the loss rises",
        source="a rise beyond the 95 % interval of the difference",
        moves=slower(of.run.plan),
    )


def spikes(of: Evidence) -> Looked:
    about, losses = "spikes of the loss", of.losses
    if len(losses) < FEWEST:
        return looked(about=about, unknown=TOO_SHORT)
    if min(losses) <= 0:
        return looked(about=about, unknown="a loss of zero has no logarithm")
    logs = [math.log(loss) for loss in losses]
    rest = [
        value - statistics.median(logs[max(0, place - AROUND) : place + AROUND + 1])
        for place, value in enumerate(logs)
    ]
    spread = NORMAL_MAD * statistics.median(map(abs, rest))
    bound = max(SPIKE.value * spread, math.log(DOUBLE.value))
    count = sum(value > bound for value in rest)
    return looked(
        about=about,
        figure=f"{count} of {len(rest)} steps, too many above {SPIKES.value:.0%}",
        is_wrong=count > max(1.0, SPIKES.value * len(rest)),
        finding="the loss jumps",
        source=f"{SPIKE.value:g} {SPIKE.reason}; {DOUBLE.reason}; {SPIKES.reason}",
        moves=slower(of.run.plan),
    )


def gradients(of: Evidence) -> Looked:
    about = "growth of the gradient norm"
    if len(of.grad_norms) < FEWEST:
        return looked(about=about, unknown=TOO_SHORT)
    first, last = (statistics.median(values) for values in quarters(of.grad_norms))
    growth = last / first if first else math.inf
    clip = of.run.plan.program.train.max_grad_norm
    moves = slower(of.run.plan) if clip else {"train.max_grad_norm": Moved(clip, 1.0)}
    return looked(
        about=about,
        figure=f"×{growth:.2g} from first to last quarter, too much above ×{GROWTH.value:g}",
        is_wrong=growth > GROWTH.value,
        finding="the gradients grow",
        source=GROWTH.reason,
        moves=moves,
    )


def drowned(of: Evidence) -> Looked:
    """Has the change grown to the size of what it changes?"""
    about = "LoRA's norm beside the base's, at most"
    if of.norm is None:
        return looked(about=about, unknown=of.unknown.get("norm", "there is no finished LoRA"))
    return looked(
        about=about,
        figure=f"{of.norm:.2g} in the median of the modules, too strong above {DROWNED.value:g}",
        is_wrong=of.norm > DROWNED.value,
        finding="the LoRA drowns the base",
        source=DROWNED.reason,
        moves=slower(of.run.plan),
    )


def noise(of: Evidence) -> Looked:
    """How well the last losses tell runs apart; where something is held out, that does it."""
    about, last = "noise of the last losses", figures.last(of.run.metrics.get("loss", ()), of.run.step)
    if of.run.metrics.get("held_out/loss"):
        return looked(about=about, unknown="the held-out loss is there to compare by")
    if last is None or len(last.steps) < 2 or not last.mean:
        return looked(about=about, unknown=TOO_SHORT)
    share, batch = (last.high - last.mean) / last.mean, of.run.plan.program.train.effective_batch
    return looked(
        about=about,
        figure=f"± {share:.0%} of their mean, too much above {NOISE.value:.0%}",
        is_wrong=share > NOISE.value,
        finding="the loss is too noisy to compare runs by",
        source=NOISE.reason,
        todo="or hold some of the data out",
        moves={"train.effective_batch": Moved(batch, 2 * batch)},
    )


def quarters(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The first quarter and the last."""
    count = len(values) // 4
    return values[:count], values[-count:]


RULES = (divergence, rising_loss, spikes, gradients, drowned, noise)
