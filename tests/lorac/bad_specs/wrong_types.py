"""Text for a number, True for a whole number, a fraction for one, a number for True: all at once."""

from lorac import Experiment, Fit, Images, LoRA, Train

train = Train(
    seed=3.7,
    learning_rate="2e-5",
)

experiment = Experiment(
    name="types",
    base="base",
    data=Images("pictures", flip=1),
    adapter=LoRA(rank=True),
    train=train,
    fit=Fit(micro_batch=None),
)
