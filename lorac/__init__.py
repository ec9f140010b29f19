"""lorac: a compiler and runner for LoRA experiments.

`from lorac import …` gives the words a spec is written in. It imports no torch.
"""

from lorac.spec import AdamW, Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

__all__ = ["AdamW", "Auto", "Base", "Experiment", "Fit", "Images", "LoRA", "Outputs", "Samples", "Train"]
