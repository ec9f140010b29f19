"""Captions by a Transformers model that classifies pictures: its labels as tags, the surest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from runtime.label.labeller import Describe

SURE = 0.35
"""Least probability of a tag: the threshold of kohya's tagging script for WD14 (tag_images_by_wd14_tagger.py)."""


def tagger(model: str, most: int) -> Describe:
    """What gives pictures at most `most` tags, and at least the likeliest.

    A model of several labels a picture says so in its config (problem_type); else its labels share one probability.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor: Any = AutoImageProcessor.from_pretrained(model)
    loaded: Any = AutoModelForImageClassification.from_pretrained(model, use_safetensors=True)
    loaded = loaded.to(device).eval()
    has_several = loaded.config.problem_type == "multi_label_classification"

    @torch.inference_mode()
    def describe(pictures: Sequence[Image]) -> list[list[str]]:
        logits = loaded(**processor(images=list(pictures), return_tensors="pt").to(device)).logits.float()
        chances = logits.sigmoid() if has_several else logits.softmax(dim=-1)
        return [_tags(row, loaded.config.id2label, most) for row in chances]

    return describe


def _tags(chances: torch.Tensor, names: dict[int, str], most: int) -> list[str]:
    ranked = chances.sort(descending=True, stable=True)
    count = max(1, min(most, int((ranked.values >= SURE).sum())))
    return [names[int(place)].replace("_", " ") for place in ranked.indices[:count]]
