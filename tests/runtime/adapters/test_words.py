"""Words with vectors of their own: how captions are read, and what a token embedding gives for them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from runtime import plan
from runtime.adapters import adapted, words
from runtime.errors import InputError
from runtime.families import clip_vocabulary, tiny
from tests.runtime.adapters.test_lora import adapter

KNOWN = tiny.CLIP_WORDS
CREST = plan.Word(word="<Crest>", initial="red", vectors=2, learning_rate=1e-3)
RED = plan.Word(word="red", initial="a of on", vectors=2, learning_rate=1e-3)
PLACE = "embeddings.token_embedding"


def with_words(*given: plan.Word, path: str = PLACE) -> plan.Adapter:
    return attrs.evolve(adapter(), words=given, word_embeddings={"text_encoder": path})


def tokenizers() -> dict[str, Any]:
    return {"text_encoder": clip_vocabulary.tokenizer(KNOWN)}


@pytest.mark.parametrize(
    ("caption", "rows"),
    [
        ("a <crest>, on red cloth", [0, 1, 2, 3]),
        ("<CREST> <Crest>", [0, 1, 0, 1]),
        ("crest, <crests>, reddish, infrared, <crest>s", []),
        ("(red:1.2)", [2, 3]),
        ("red-hot, infra-red, red_1", [2, 3, 2, 3, 2, 3]),
    ],
)
def test_a_word_is_read_where_it_stands_whole_whatever_its_letters_size(
    caption: str, rows: list[int]
) -> None:
    known = words.taught(tokenizers(), with_words(CREST, RED))["text_encoder"]

    assert [number - KNOWN for number in known(caption).input_ids if number >= KNOWN] == rows


def test_of_two_words_that_fit_the_longer_one_is_read() -> None:
    longer = plan.Word(word="red-hot", initial="a", vectors=1, learning_rate=0.0)
    known = words.taught(tokenizers(), with_words(RED, longer))["text_encoder"]

    ids = known("red-hot red", add_special_tokens=False).input_ids
    assert [number - KNOWN for number in ids] == [2, 0, 1]


def test_other_captions_are_read_as_before_and_the_tokenizer_that_was_given_stays() -> None:
    plain = tokenizers()["text_encoder"]
    known = words.taught({"text_encoder": plain}, with_words(CREST))["text_encoder"]

    for caption in ("a crest, on red cloth", "", "<crest"):
        assert known(caption).input_ids == plain(caption).input_ids
    assert len(plain) == KNOWN
    assert max(plain("<crest>").input_ids) < KNOWN


class Tower(nn.Module):
    """As much of a text encoder as it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"token_embedding": nn.Embedding(KNOWN, 4)})


def test_the_vectors_begin_as_the_initial_words_spread_over_them() -> None:
    modules = {"text_encoder": Tower()}
    base = modules["text_encoder"].get_submodule(PLACE).weight.detach().clone()
    four = attrs.evolve(RED, vectors=4)
    known = words.introduce(modules, tokenizers(), with_words(CREST, four))["text_encoder"]
    adapted.initialise(modules["text_encoder"], "text_encoder", 0)

    red, a, of, on = tokenizers()["text_encoder"]("red a of on", add_special_tokens=False).input_ids
    ids = torch.tensor(known("<crest> red", add_special_tokens=False).input_ids)
    assert torch.equal(modules["text_encoder"].get_submodule(PLACE)(ids), base[[red, red, a, a, of, on]])


def test_at_weight_0_they_are_what_they_began_as_else_whole() -> None:
    modules = {"text_encoder": Tower()}
    words.introduce(modules, tokenizers(), with_words(CREST))
    tower = modules["text_encoder"]
    adapted.initialise(tower, "text_encoder", 0)
    ids = torch.tensor([[KNOWN, KNOWN + 1, 7]])
    embedding = tower.get_submodule(PLACE)
    began = embedding(ids)
    with torch.no_grad():
        adapted.parameters(tower)[f"{PLACE}.<Crest>"].add_(1)

    trained = embedding(ids)
    assert torch.equal(trained, began + torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1))
    for weight, said in ((0.0, began), (0.5, trained), (1.0, trained)):
        adapted.weigh(tower, weight)
        assert torch.equal(embedding(ids), said)


def test_a_text_s_end_is_found_though_an_old_config_does_not_know_it() -> None:
    """transformers looks for the highest id then, which a new word's would be."""
    config = CLIPTextConfig(**tiny.CLIP, projection_dim=8)
    said = []
    for end in (KNOWN - 1, words.UNKNOWN_END):
        torch.manual_seed(0)
        module = CLIPTextModelWithProjection(config).eval()
        for part in module.modules():
            if hasattr(part, "eos_token_id"):
                part.eos_token_id = end
        path = f"text_model.{PLACE}"
        known = words.introduce({"text_encoder": module}, tokenizers(), with_words(CREST, path=path))
        adapted.initialise(module, "text_encoder", 0)
        ids = torch.tensor([known["text_encoder"]("a <crest>, red").input_ids])
        said.append(module(ids).text_embeds)

    assert torch.equal(*said)


def test_a_base_whose_tokenizer_and_text_encoder_disagree_is_refused() -> None:
    modules = {"text_encoder": Tower()}
    modules["text_encoder"].embeddings["token_embedding"] = nn.Embedding(KNOWN + 8, 4)

    with pytest.raises(InputError) as raised:
        words.introduce(modules, tokenizers(), with_words(CREST))
    assert raised.value.problems[0].what == f"has {KNOWN + 8} tokens, and its tokenizer {KNOWN}"
