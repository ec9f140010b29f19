"""Fields that do not exist: a slip of the pen, a required field's name misspelt, and nothing known."""

from lorac import Experiment, Images, LoRA, Train

experiment = Experiment(
    nmae="misspelt",
    base="base",
    data=Images("pictures"),
    adapter=LoRA(
        rnak=8,
        alpha=8,
    ),
    train=Train(learning_rat=1e-4, zzz=1),
)
