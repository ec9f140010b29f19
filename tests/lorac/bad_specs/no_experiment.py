"""Nothing to plan: the experiment is made in a function that nobody calls."""

from lorac import Experiment, Images, LoRA

adapter = LoRA(rank=8)


def make() -> Experiment:
    return Experiment(name="never", base="base", data=Images("pictures"), adapter=adapter)
