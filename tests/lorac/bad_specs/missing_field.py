"""What has no default is left out, in two parts."""

from lorac import Experiment, Images

experiment = Experiment(
    base="base",
    data=Images(trigger="a style"),
)
