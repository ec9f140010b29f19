"""Words with vectors of their own in the text encoders, trained beside the adapter: textual inversion (Gal et al. 2022,
arXiv:2208.01618), called pivotal tuning where a LoRA is trained with it.

- The base's token embedding stays as it is; the vectors are further rows, the only ones that learn and are kept.
- A tokenizer that was taught a word turns it, wherever it stands as a whole, into those rows' numbers. So captions,
  samples and what is held out are all encoded with it.
- WebUI, ComfyUI and diffusers put a word's vectors in whole, whatever the LoRA's weight; so do these. At weight 0 they
  are what they began as.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from tokenizers import Regex, normalizers
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import AddedToken

from runtime import plan
from runtime.adapters.adapted import Adapted
from runtime.errors import InputError, Problem
from runtime.families.protocol import Modules

UNKNOWN_END = 2
"""The `eos_token_id` of CLIP's older configs, which is none: transformers then takes a text's highest id for its end,
and a new word's is higher (`CLIPTextModel.forward`)."""


class NewWords(Adapted):
    """A token embedding with more rows than the base's: ids (N, T) -> (N, T, width). The parts are each word's rows
    (vectors, width), by its token; their ids follow the base's, in that order."""

    base_layer: nn.Embedding

    def __init__(self, base: nn.Embedding, counts: Mapping[str, int]) -> None:
        """`counts`: a word's token -> its vectors."""
        width = base.embedding_dim
        super().__init__(base, {token: (count, width) for token, count in counts.items()})
        began = base.weight.new_empty(sum(counts.values()), width)
        self.began = nn.Buffer(began, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        rows = torch.cat([*self.parts.values()]) if self.acting else self.began
        last = self.base_layer.num_embeddings - 1
        is_new = (ids > last).unsqueeze(-1)
        new = F.embedding((ids - last - 1).clamp(min=0), rows)
        return torch.where(is_new, new, self.base_layer(ids.clamp(max=last)))

    def first(self, generator: Callable[[str], Generator]) -> None:
        sizes = [len(rows) for rows in self.parts.values()]
        for rows, began in zip(self.parts.values(), self.began.split(sizes), strict=True):
            rows.copy_(began)


def introduce(modules: Modules, tokenizers: Mapping[str, Any], adapter: plan.Adapter) -> dict[str, Any]:
    """Put a plan's words into its text encoders, in place, with their first values. The tokenizers that know them.

    Raises InputError where a text encoder has another count of tokens than its tokenizer.
    """
    put_on(modules, adapter)
    for encoder, path in adapter.word_embeddings.items():
        embedding, tokenizer = modules[encoder].get_submodule(path), tokenizers[encoder]
        known = embedding.base_layer.num_embeddings
        if len(tokenizer) != known:
            what = f"has {known} tokens, and its tokenizer {len(tokenizer)}"
            raise InputError(Problem(f"base's {encoder}", what, "new words need a base whose files agree"))
        with torch.no_grad():
            embedding.began.copy_(embedding.base_layer.weight[[*_beginnings(tokenizer, adapter)]])
    return taught(tokenizers, adapter)


def put_on(modules: Modules, adapter: plan.Adapter) -> None:
    """Give the token embeddings their further rows, without values. In place; meta tensors too."""
    counts = {plan.token_of(word): word.vectors for word in adapter.words}
    for encoder, path in adapter.word_embeddings.items():
        module = modules[encoder]
        base = module.get_submodule(path)
        module.set_submodule(path, NewWords(base, counts))
        for part in module.modules():
            if getattr(part, "eos_token_id", None) == UNKNOWN_END:
                part.eos_token_id = base.num_embeddings - 1  # the highest that texts without new words have


def _beginnings(tokenizer: Any, adapter: plan.Adapter) -> Iterator[int]:
    """For each new row the id that it begins as: `initial`'s tokens, spread over the word's vectors."""
    for word in adapter.words:
        ids = tokenizer(word.initial, add_special_tokens=False).input_ids
        yield from (ids[place * len(ids) // word.vectors] for place in range(word.vectors))


def taught(tokenizers: Mapping[str, Any], adapter: plan.Adapter) -> dict[str, Any]:
    """Tokenizers that know a plan's words: those of the text encoders that have them are copies."""
    return {
        encoder: _taught(tokenizer, adapter.words) if encoder in adapter.word_embeddings else tokenizer
        for encoder, tokenizer in tokenizers.items()
    }


def _taught(tokenizer: Any, words: tuple[plan.Word, ...]) -> Any:
    rows = {
        word.word.lower(): [f"<|{number}.{place}|>" for place in range(word.vectors)]
        for number, word in enumerate(words)
    }
    longest_first = sorted(rows, key=len, reverse=True)  # as WebUI does
    made = copy.deepcopy(tokenizer)
    backend = made.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [
            backend.normalizer,  # which makes letters small
            *(normalizers.Replace(Regex(pattern(word)), "".join(rows[word])) for word in longest_first),
        ]
    )
    made.add_tokens([AddedToken(token, normalized=True) for tokens in rows.values() for token in tokens])
    return made


def pattern(word: str) -> str:
    """A regular expression for where a word stands as a whole: where no letter is beside it, so that its tokens, as
    WebUI looks for them, are there."""
    letter = r"[^\W\d_]"
    return f"(?<!{letter}){re.escape(word)}(?!{letter})"
