"""What a run does with its data, by the kind of data: one file each, one line each in this closed registry.

clips.py      the same of a few seconds of film
pictures.py   latents and embeddings cached, pictures drawn
text.py       conversations as token sequences, packed or padded; held-out loss; answers
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

import attrs
import torch
from PIL.Image import Image

from runtime import log, plan
from runtime.errors import PlanError, Problem
from runtime.families.protocol import Batch, Modules
from runtime.preflight import Where
from runtime.step import Trainee

MEDIA = {
    "clips": "runtime.media.clips",
    "images": "runtime.media.pictures",
    "text": "runtime.media.text",
}


class Visit(Protocol):
    """A sample of a step: what is trained on once."""

    @property
    def key(self) -> int:
        """From which all of its randomness comes."""


class Feed(Protocol):
    """A plan's samples, ready to be trained on."""

    def step(self, number: int) -> Sequence[Any]:
        """The samples of optimizer step `number`, counted from 0 over the whole run: a pure function."""

    def cut(self, samples: Sequence[Any], micro_batch: int) -> list[tuple[Any, ...]]:
        """A step in groups of at most `micro_batch` samples that can be stacked."""

    def batch(self, samples: Sequence[Any]) -> Batch:
        """The stacked tensors of one such group, on the device."""

    def weigh(self, samples: Sequence[Any]) -> int:
        """What the sum of these samples' losses is divided by for their mean."""

    def names(self, samples: Sequence[Any]) -> list[str]:
        """Where the samples come from, for messages."""

    def held_out(self, micro_batch: int) -> Iterable[tuple[Batch, list[tuple[int, int]]]]:
        """Batches of what is never trained on, always the same; none where nothing is.

        Each row comes with its sample's number and its weight as in `weigh`; a sample may have several rows.
        """


@attrs.frozen(kw_only=True)
class Ready:
    """All that shows what the run has learned, between steps and at its end."""

    plan: plan.Plan
    trainee: Trainee
    modules: Modules
    tokenizers: dict[str, Any]
    where: Where
    metrics: log.Metrics | log.Silence


class Medium(Protocol):
    """What is done with one kind of data."""

    def prepare(
        self,
        of: Any,
        modules: Modules,
        tokenizers: dict[str, Any],
        program: plan.Program,
        where: Where,
        device: torch.device,
    ) -> Feed:
        """Read and encode the data, the modules without an adapter. Raises InputError, DivergedError, MachineError."""

    def show(self, ready: Ready, step: int) -> None:
        """Samples after `step` steps. What goes wrong is told, and training goes on."""

    def finish(self, ready: Ready) -> Sequence[Image]:
        """The last samples; pictures among them become the LoRA's previews."""


def medium(data: plan.Data) -> Medium:
    """The medium of a plan's data. Raises PlanError for a kind that is not in the registry."""
    if data.kind not in MEDIA:
        raise PlanError(Problem("data.kind", f"must be one of {', '.join(MEDIA)}, got {data.kind!r}"))
    return cast(Medium, import_module(MEDIA[data.kind]))
