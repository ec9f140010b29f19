"""Every bound of the advice, with its reason. "The demo" is `specs/quickstart.py`; its figures were measured here."""

from __future__ import annotations

import attrs


@attrs.frozen
class Threshold:
    """A bound, and why it is there."""

    value: float
    reason: str


# ---------------------------------------------------------------------------------------------------------- too weak

NORM = Threshold(
    0.005,
    "a tenth of what 60 steps of the demo leave, 0.049, where the pictures have changed for all to see",
)
AIMED_NORM = Threshold(0.05, "the demo's after 60 steps")
PIXELS = Threshold(
    2.0, "two levels of 255: rounding alone makes one, and the demo's 60 steps make 21 in the mean"
)
WORDS = Threshold(
    2.0,
    "two words name a subject and nothing else, and what no caption names is learned as part of every picture",
)
SAME_CAPTIONS = Threshold(0.5, "most captions then tell the model nothing that tells pictures apart")
IGNORANT_NOISE = Threshold(
    1.0,
    "to answer zero costs 1 where noise of variance 1 is to be told (Ho et al. 2020), a base knows better",
)
IGNORANT_FLOW = Threshold(
    2.0,
    "to answer zero costs 2 where noise minus picture is to be told, each of variance 1; a base knows better",
)

# -------------------------------------------------------------------------------------------------------- overfitted

EXPOSURES = Threshold(
    200.0,
    "the longest of the recipes that trainers ship: ai-toolkit's 2000 steps on ten pictures",
)

# ---------------------------------------------------------------------------------------------------------- unstable

SPIKE = Threshold(
    6.0,
    "scaled median deviations of the log loss from its running median: normal noise gets there once in 1e9 steps, "
    "and the demo to 2.4",
)
DOUBLE = Threshold(2.0, "a spike doubles the loss at least: where there is no noise, a trend is no spike")
SPIKES = Threshold(0.01, "a spike in a hundred steps is seen in what is learned; a single one is not")
GROWTH = Threshold(10.0, "the demo's two measured runs have 0.6 and 1.1")
DROWNED = Threshold(
    0.5,
    "the demo at ten times its rate leaves 0.69 after 40 steps and a loss a third higher than at its own, 0.04",
)
NOISE = Threshold(0.5, "a change that halves the loss could not be told from chance")

# ----------------------------------------------------------------------------------------------------------- remedies

MOST_FASTER, LEAST_FASTER = 10.0, 2.0
"""A learning rate is raised by a decade at most, and by what is worth a run at least."""
SLOWER = 0.3
"""Half a decade down: rates are tried on a scale of logarithms."""
