"""Has the LoRA an effect? How much it changes the base, what its captions say, whether the base fits."""

from __future__ import annotations

import math
import re
import statistics
from functools import partial

from lorac.advice.evidence import Evidence
from lorac.advice.looked import Looked, Moved, Moves, faster
from lorac.advice.thresholds import (
    AIMED_NORM,
    IGNORANT_FLOW,
    IGNORANT_NOISE,
    NORM,
    PIXELS,
    SAME_CAPTIONS,
    WORDS,
    Threshold,
)
from runtime import plan

FIRST = 10
"""Steps that the first loss is the mean of: the LoRA begins as no change, so it is the base's."""
OTHER = {"epsilon": "v_prediction", "v_prediction": "epsilon"}

looked = partial(Looked, kind="weak")


def base(of: Evidence) -> Looked:
    """A base that is wrong, or told to predict what it does not, knows less than nothing."""
    about, bound = "the base's own loss", _ignorant(of.run.plan.program)
    first = of.losses[:FIRST]
    if bound is None or not first:
        return looked(
            about=about,
            unknown="the loss is weighted: no bound is known" if first else "no step was done",
        )
    loss, kind = statistics.fmean(first), of.run.plan.program.base.prediction_type
    moves: Moves = {"base.prediction_type": Moved(kind, OTHER[kind])} if kind in OTHER else {}
    return looked(
        about=about,
        figure=f"{loss:.3g} over the first {len(first)} steps, as good as nothing from {bound.value:.3g}",
        is_wrong=loss >= bound.value,
        finding="the base does not fit its data or what it is to predict",
        source=bound.reason,
        todo="or take the base that fits the data",
        moves=moves,
    )


def norm(of: Evidence) -> Looked:
    """‖ΔW‖ grows as learning rate × steps while it is small: B starts at zero and Adam moves it by the rate."""
    about = "LoRA's norm beside the base's"
    if of.norm is None:
        why = of.unknown.get("norm", "there is no finished LoRA")
        return looked(about=about, unknown=why)
    factor = AIMED_NORM.value / of.norm if of.norm else math.inf
    return looked(
        about=about,
        figure=f"{of.norm:.2g} in the median of the modules, weak below {NORM.value:g}",
        is_wrong=of.norm < NORM.value,
        finding="the LoRA hardly changes the base",
        source=NORM.reason,
        moves=faster(of.run.plan, factor),
    )


def pictures(of: Evidence) -> Looked:
    about = "pictures beside the base's"
    if of.pixels is None:
        why = of.unknown.get("pixels", "there is no contact sheet")
        return looked(about=about, unknown=why)
    return looked(
        about=about,
        figure=f"{of.pixels:.1f} levels of 255 apart, alike below {PIXELS.value:g}",
        is_wrong=of.pixels < PIXELS.value,
        finding="pictures with the LoRA are those without it",
        source=PIXELS.reason,
        moves=faster(of.run.plan, PIXELS.value / of.pixels if of.pixels else math.inf),
    )


def answers(of: Evidence) -> Looked:
    about = "answers beside the base's"
    last = [one for one in of.run.answers if one.when == "at the end"]
    if not last:
        return looked(about=about, unknown="nothing was asked")
    same = sum(one.base == one.adapted for one in last)
    return looked(
        about=about,
        figure=f"{same} of {len(last)} are the same, weak if all are",
        is_wrong=same == len(last),
        finding="answers with the LoRA are those without it",
        source="the likeliest token is asked for: any effect changes a word somewhere",
        moves=faster(of.run.plan, 0.0),
    )


def captions(of: Evidence) -> Looked:
    about, data = "captions", of.run.plan.program.data
    texts = [item.caption for item in data.items] if isinstance(data, plan.Images) else []
    if len(texts) < 2:
        return looked(about=about, unknown="there are none to compare")
    own = [one.replace(of.run.plan.outputs.trigger, "") for one in texts]
    words = statistics.median(len(re.findall(r"\w+", one)) for one in own)
    same = 1 - len(set(own)) / len(own)
    wrongs = ["are too short"] * (words <= WORDS.value) + ["are alike"] * (same > SAME_CAPTIONS.value)
    return looked(
        about=about,
        figure=f"{words:g} words in the median beside the trigger, {same:.0%} said before; "
        f"short at {WORDS.value:g}, alike above {SAME_CAPTIONS.value:.0%}",
        is_wrong=bool(wrongs),
        finding=f"captions {' and '.join(wrongs)}",
        source=WORDS.reason if words <= WORDS.value else SAME_CAPTIONS.reason,
        todo="say in each caption what is in that picture: lorac check lists them",
    )


def _ignorant(of: plan.Program) -> Threshold | None:
    """What a model without knowledge has for a loss; None where the loss is weighted up or is no square."""
    if isinstance(of.data, plan.Texts):
        sizes = [
            config["vocab_size"]
            for config in of.base.architecture.values()
            if isinstance(config, dict) and isinstance(config.get("vocab_size"), int)
        ]
        if not sizes:
            return None
        return Threshold(math.log(max(sizes)), f"to guess among {max(sizes)} tokens costs their logarithm")
    objective = of.train.objective
    is_plain = objective.loss_type == "l2" and not objective.debiased and not objective.pyramid_iterations
    if not is_plain or of.data.kind != "images" or any(item.loss_weight > 1 for item in of.data.items):
        return None
    return IGNORANT_FLOW if of.base.prediction_type == "flow" else IGNORANT_NOISE


RULES = (base, norm, pictures, answers, captions)
