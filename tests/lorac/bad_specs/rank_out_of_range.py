"""A number out of its range, and one that is not finite."""

from lorac import Experiment, Images, LoRA, Train

experiment = Experiment(
    name="rank",
    base="base",
    data=Images("pictures"),
    adapter=LoRA(
        # Four thousand and ninety-six.
        #
        #
        #
        rank=4096,
    ),
    train=Train(learning_rate=float("inf")),
)
