"""Numbers that come out of numpy: they look like numbers, and would not survive in a plan."""

import numpy as np

from lorac import Experiment, Images, LoRA, Train

experiment = Experiment(
    name="numpy",
    base="base",
    data=Images("pictures"),
    adapter=LoRA(rank=np.int64(8)),
    train=Train(learning_rate=np.float64(1e-4)),
)
