"""How pictures and words are seen: by an open_clip model (Radford et al. 2021), or by their pixels alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from PIL import Image

from runtime.errors import InputError, Problem
from runtime.evaluation.figures import Vectors, units
from runtime.evaluation.results import Judge
from runtime.safeio import digest, paths

LOCAL = "local-dir:"
"""How open_clip names a folder."""
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
BESIDE = "clip"
"""The folder beside a base that is its judge where none is given."""
SIDE = 32
"""Pixels a side that pictures are compared at by their pixels."""
AT_ONCE = 64
"""Pictures that are looked at together."""


@attrs.frozen(kw_only=True)
class Clip:
    """An open_clip model, ready to look."""

    judge: Judge
    model: Any
    prepare: Any
    tokenizer: Any

    def pictures(self, pictures: Sequence[Image.Image]) -> Vectors:
        """(N, D), a row a picture."""
        return self._seen(
            [torch.stack([self.prepare(one) for one in part]) for part in _parts(pictures)],
            self.model.encode_image,
        )

    def texts(self, texts: Sequence[str]) -> Vectors:
        """(N, D), a row a text, to be compared with a picture's."""
        return self._seen([self.tokenizer(list(part)) for part in _parts(texts)], self.model.encode_text)

    @torch.no_grad()
    def _seen(self, parts: Sequence[torch.Tensor], encode: Callable[[torch.Tensor], torch.Tensor]) -> Vectors:
        return units(torch.cat([encode(part) for part in parts]).float().numpy())


def find(given: str | None, base: Path) -> str | None:
    """The judge that is asked for, or the one that lies beside the base; None where there is neither."""
    if given is not None:
        return given
    beside = base.parent / BESIDE
    return str(beside) if (beside / CONFIG).is_file() else None


def load(name: str) -> Clip:
    """An open_clip model on the CPU: of a folder (with or without `local-dir:`), NAME/WEIGHTS as open_clip lists them,
    or hf-hub:OWNER/NAME. Raises InputError."""
    import open_clip

    folder = Path(name.removeprefix(LOCAL))
    if folder.is_dir() or name.startswith(LOCAL):
        missing = [
            Problem(paths.display(folder / file), "is missing", "give --judge a folder that open_clip wrote")
            for file in (CONFIG, WEIGHTS)
            if not (folder / file).is_file()
        ]
        if missing:
            raise InputError(missing)
        model_name, weights = f"{LOCAL}{folder}", None
    elif ":" in name:
        model_name, weights = name, None
    else:
        model_name, _, weights = name.partition("/")
        if weights not in open_clip.list_pretrained_tags_by_model(model_name):
            hint = "give a folder, or a name and its weights such as ViT-B-32/laion2b_s34b_b79k"
            raise InputError(Problem("--judge", f"open_clip knows no {name}", hint))
    try:
        model, prepare = open_clip.create_model_from_pretrained(model_name, pretrained=weights)
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # open_clip raises whatever its files, or its hub, make it raise
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            Problem(name, f"cannot be loaded by open_clip: {said}", "give --judge a folder")
        ) from error
    model.eval().requires_grad_(False)
    return Clip(
        judge=Judge(name=name, digest=_digest(folder, model)),
        model=model,
        prepare=prepare,
        tokenizer=tokenizer,
    )


def by_pixels(pictures: Sequence[Image.Image]) -> Vectors:
    """(N, 3 · SIDE²): the cosine of two rows is the correlation of the pictures' pixels.

    Copies are looked for by pixels (by their distance in Carlini et al. 2023, arXiv:2301.13188), never by a judge: it
    sees what a picture shows, and two pictures of one thing are near to each other whoever drew them.
    """
    small = [one.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX) for one in pictures]
    flat = np.stack([np.asarray(one, dtype=np.float32).reshape(-1) for one in small])
    return units(flat - flat.mean(1, keepdims=True))


def _digest(folder: Path, model: torch.nn.Module) -> str:
    """The weights' file's sha256; of a model from open_clip's own list, that of its tensors' bytes."""
    if (folder / WEIGHTS).is_file():
        return digest.sha256_file(folder / WEIGHTS)
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _parts(all_of: Sequence[Any]) -> list[Sequence[Any]]:
    return [all_of[at : at + AT_ONCE] for at in range(0, len(all_of), AT_ONCE)]
