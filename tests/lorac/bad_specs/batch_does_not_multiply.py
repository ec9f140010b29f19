"""Pinned numbers that do not make up the effective batch."""

from lorac import Experiment, Fit, Images, Train

experiment = Experiment(
    name="batch",
    base="base",
    data=Images("pictures"),
    train=Train(effective_batch=8),
    fit=Fit(
        micro_batch=2,
        accumulation=3,
        processes=1,
    ),
)
