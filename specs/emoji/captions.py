"""What the base reads while it learns: captions drawn from a concept's names, as CLIP tokens."""

from __future__ import annotations

import numpy as np
import torch
from model import CONTEXT
from pictures import Concept
from transformers import CLIPTokenizer

EMPTY = 0.1
FORMAL_NAME = 0.6
SUBJECT = 0.85
STYLE_WORDS = 0.15
# A LoRA's trigger stands where these stand, so the base must know that what follows the subject may be ignored.
STYLES = ("emoji", "emoji style", "drawing", "picture style", "art style", "icon")


def draw_caption(concept: Concept, chooser: np.random.Generator) -> str:
    """`cat face, animal`, or with another of its names, without the subject, with a style word, or empty."""
    if chooser.random() < EMPTY:
        return ""
    formal = len(concept.names) == 1 or chooser.random() < FORMAL_NAME
    caption = concept.names[0] if formal else str(chooser.choice(concept.names[1:]))
    if chooser.random() < SUBJECT:
        caption += f", {concept.subject}"
    if chooser.random() < STYLE_WORDS:
        caption += f", {chooser.choice(STYLES)}"
    return caption


class Vocabulary:
    """The tokens that any caption uses, renumbered from 0: the other 48,000 rows would only be dead weight."""

    def __init__(self, tokenizer: CLIPTokenizer, concepts: list[Concept]) -> None:
        self._tokenizer = tokenizer
        texts = [name for c in concepts for name in (*c.names, f", {c.subject}")]
        texts += [f", {style}" for style in STYLES]
        ids = {token for text in texts for token in tokenizer(text).input_ids}
        self.used = torch.tensor(sorted(ids))
        self._compact = torch.full((len(tokenizer),), -1)
        self._compact[self.used] = torch.arange(len(self.used))

    def encode(self, captions: list[str]) -> torch.Tensor:
        """Compact ids, int64 (n, 77), padded with the end token."""
        ids = self._tokenizer(
            captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
        ).input_ids
        return self._compact[ids]
