"""A sweep whose experiments would write into one folder."""

from lorac import Experiment, Images, LoRA

experiments = [
    Experiment(name=name, base="base", data=Images("pictures"), adapter=LoRA(rank=rank))
    for name, rank in (("sweep", 4), ("Sweep", 8))
]
