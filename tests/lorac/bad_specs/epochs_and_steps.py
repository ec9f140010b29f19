"""Fields that contradict each other."""

from lorac import Auto, Experiment, Images, LoRA, Train

experiment = Experiment(
    name="both",
    base="base",
    data=Images("pictures", resolution=512, max_bucket=256),
    adapter=LoRA(
        rank=Auto(32, 4),
        targets="re:attn[",
    ),
    train=Train(
        epochs=10,
        steps=1000,
    ),
)
