"""lorac: a compiler and runner for LoRA experiments.

`from lorac import …` gives the words a spec is written in. It imports no torch.
"""

from lorac.spec import (
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
    LoRA,
    Outputs,
    Samples,
    Sequences,
    Text,
    Train,
)

__all__ = [
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
    "LoRA",
    "Outputs",
    "Samples",
    "Sequences",
    "Text",
    "Train",
]
