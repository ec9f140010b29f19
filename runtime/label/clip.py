"""Captions by a CLIP: in each list of words, the one whose text is nearest to the picture (Radford et al. 2021).

The best subject always stands; of the other lists, the words that the model is sure of. Joined, they make a caption as
CLIP-Interrogator's do: subject, medium, style, colour, light, composition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import open_clip
import torch
from PIL.Image import Image
from torch import Tensor

from runtime.errors import Problem, SpecError
from runtime.label.labeller import Describe
from runtime.label.words import KINDS

SURE = 0.25
"""How far above chance the best of a list must be to stand in the caption, 1 certain: 0.63 of two words, 0.27 of
thirty. A choice, not a measurement."""

TEXTS = 256
"""Texts that are encoded at once."""


@attrs.frozen(eq=False)
class Clip:
    """An open_clip model with its tokenizer and how it wants pictures."""

    model: Any
    tokenizer: Any
    preprocess: Callable[[Image], Tensor]
    device: torch.device


def load(name: str) -> Clip:
    """A model by `local-dir:FOLDER`, `hf-hub:OWNER/NAME`, or open_clip's `MODEL` or `MODEL/WEIGHTS`.

    Raises SpecError for weights that open_clip does not know, and what open_clip raises where it cannot load them.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = None
    if ":" not in name:
        name, _, weights = name.partition("/")
        known = open_clip.list_pretrained_tags_by_model(name)
        weights = weights or next(iter(known), None)
        if weights not in known:
            hint = f"open_clip has {', '.join(known) or 'none'} for {name}"
            raise SpecError(Problem("--model", f"there are no weights {weights!r} for {name}", hint))
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights, device=device)
    return Clip(model.eval(), open_clip.get_tokenizer(name), preprocess, device)


def ranker(clip: Clip, lists: dict[str, tuple[str, ...]], most: int) -> Describe:
    """What describes pictures by at most `most` words of the lists."""
    texts = {kind: _texts(clip, words) for kind, words in lists.items() if words}

    @torch.inference_mode()
    def describe(pictures: Sequence[Image]) -> list[list[str]]:
        batch = torch.stack([clip.preprocess(picture) for picture in pictures]).to(clip.device)
        seen = clip.model.encode_image(batch, normalize=True)
        scale = clip.model.logit_scale.exp()
        best = {kind: (scale * seen @ known.T).softmax(dim=-1).max(dim=-1) for kind, known in texts.items()}
        return [
            composed(
                {
                    kind: (
                        lists[kind][int(found.indices[at])],
                        above_chance(float(found.values[at]), len(lists[kind])),
                    )
                    for kind, found in best.items()
                },
                most,
            )
            for at in range(len(pictures))
        ]

    return describe


def above_chance(probability: float, words: int) -> float:
    """How far a probability among so many words is above chance: 0 at chance, 1 certain."""
    return 1.0 if words == 1 else (probability - 1 / words) / (1 - 1 / words)


def composed(best: dict[str, tuple[str, float]], most: int) -> list[str]:
    """The words of a caption from the best of each kind with how sure it is: the subject and the surest others."""
    sure = [kind for kind, (_, sureness) in best.items() if kind != "subject" and sureness >= SURE]
    room = most - ("subject" in best)
    kept = {"subject", *sorted(sure, key=lambda kind: -best[kind][1])[: max(0, room)]}
    return [best[kind][0] for kind in KINDS if kind in kept and kind in best]


@torch.inference_mode()
def _texts(clip: Clip, words: Sequence[str]) -> Tensor:
    """Unit vectors of the words, (n, width)."""
    parts = [
        clip.model.encode_text(clip.tokenizer(list(words[at : at + TEXTS])).to(clip.device), normalize=True)
        for at in range(0, len(words), TEXTS)
    ]
    return torch.cat(parts)
