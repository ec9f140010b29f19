"""lorac: a compiler and runner for LoRA experiments.

`from lorac import …` gives the words a spec is written in. It imports no torch.
"""

from lorac.spec import (
    Adafactor,
    AdamW,
    Answers,
    Auto,
    Base,
    Completions,
    Conversations,
    Experiment,
    Fit,
    Images,
    Instructions,
    Lion,
    LoRA,
    Outputs,
    Prodigy,
    Samples,
    ScheduleFreeAdamW,
    Sequences,
    Text,
    Train,
)

__all__ = [
    "Adafactor",
    "AdamW",
    "Answers",
    "Auto",
    "Base",
    "Completions",
    "Conversations",
    "Experiment",
    "Fit",
    "Images",
    "Instructions",
    "Lion",
    "LoRA",
    "Outputs",
    "Prodigy",
    "Samples",
    "ScheduleFreeAdamW",
    "Sequences",
    "Text",
    "Train",
]
