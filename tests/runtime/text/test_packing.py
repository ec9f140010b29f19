"""Packed and padded samples teach what they would alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.text import packing
from runtime.text.packing import IGNORED, NOBODY, Batch
from runtime.text.render import Tokens

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
SLIDING = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 3},
    "Qwen2": {"use_sliding_window": True, **SLIDING},
    "Qwen3": {},
    "Gemma2": {"query_pre_attn_scalar": 8, **SLIDING},
    "Gemma3": SLIDING,
    "Phi3": {"sliding_window": 3},
    "Glm4": {},
}

WAYS = [(f, a) for f in FAMILIES for a in ("sdpa", "eager") if (f, a) != ("Gemma2", "sdpa")]
"""transformers refuses Gemma 2 with sdpa: its attention's scores are capped."""


def samples(*lengths: int) -> list[Tokens]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [
        Tokens(
            ids=tuple(torch.randint(1, 61, (length,), generator=generator).tolist()),
            trained=tuple(place % 3 != 1 for place in range(length)),
        )
        for length in lengths
    ]


def tiny(family: str, attention: str) -> nn.Module:
    """A random model of the family."""
    config_class = getattr(transformers, f"{family}{'Text' if family == 'Gemma3' else ''}Config")
    config = config_class(**SIZES, **FAMILIES[family], attn_implementation=attention)
    torch.manual_seed(0)
    return getattr(transformers, f"{family}ForCausalLM")(config).train()


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of losses of each sample."""
    logits = model(**packing.inputs(batch)).logits[:, :-1]
    each = F.cross_entropy(
        logits.flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    owners = batch.samples[:, 1:].flatten()
    return torch.stack([each[owners == number].sum() for number in range(int(batch.samples.max()) + 1)])


@pytest.mark.parametrize(("family", "attention"), WAYS)
def test_packed_samples_have_the_losses_they_have_alone(family: str, attention: str) -> None:
    model = tiny(family, attention)
    given = samples(7, 1, 9, 4, 12)

    together = losses(model, packing.packed([given[:3], given[3:]], 24, pad=0))

    alone = torch.cat([losses(model, packing.padded([sample], pad=0)) for sample in given])
    assert together[0] > 0
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "attention"), WAYS)
def test_padded_samples_have_the_losses_they_have_alone(family: str, attention: str) -> None:
    model = tiny(family, attention)
    given = samples(7, 2, 12)

    together = losses(model, packing.padded(given, pad=0))

    alone = torch.cat([losses(model, packing.packed([[sample]], len(sample.ids), pad=0)) for sample in given])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_packed_batch_is_laid_out_sample_by_sample() -> None:
    first = Tokens(ids=(5, 6, 7), trained=(True, False, True))
    second = Tokens(ids=(8, 9), trained=(True, True))

    batch = packing.packed([[first, second], [second]], 7, pad=0)

    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 0, 0], [8, 9, 0, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [
        [IGNORED, IGNORED, 7, IGNORED, 9, IGNORED, IGNORED],
        [IGNORED, 9, *[IGNORED] * 5],
    ]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 1, 0, 1, 2, 3, 4]]
    assert batch.samples.tolist() == [[0, 0, 0, 1, 1, NOBODY, NOBODY], [2, 2, *[NOBODY] * 5]]
    assert batch.attention_mask is None


def test_a_padded_batch_masks_its_padding_and_has_a_length_of_few() -> None:
    batch = packing.padded(samples(3, 65), pad=0)

    assert batch.attention_mask is not None
    assert batch.input_ids.shape == (2, 80)
    assert batch.attention_mask.sum(-1).tolist() == [3, 65]
    assert [packing.padded_length(n) for n in (0, 1, 64, 65, 128)] == [16, 16, 64, 80, 128]


def test_a_sequence_takes_no_more_than_its_length() -> None:
    with pytest.raises(ValueError, match="9 tokens do not go into a sequence of 8"):
        packing.packed([samples(4, 5)], 8, pad=0)
    with pytest.raises(ValueError, match="sample 1 has 9 tokens"):
        list(packing.pack([1, 9], [0, 1], 8))
    with pytest.raises(ValueError, match="sample 0 has 0 tokens"):
        list(packing.pack([0, 9], [0, 1], 9))


def test_a_sample_goes_where_it_leaves_the_least_space() -> None:
    lengths = [7, 6, 3, 2, 2]

    assert list(packing.pack(lengths, range(5), 10)) == [(0, 2), (1, 3, 4)]
    assert list(packing.pack(lengths, [4, 3, 2, 1, 0], 10)) == [(4, 3, 1), (2, 0)]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 32), max_size=60), window=st.integers(1, 20), data=st.data())
def test_packing_visits_each_sample_once_within_the_length_and_its_window(
    lengths: list[int], window: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(lengths))))

    packed = list(packing.pack(lengths, order, 32, window))

    assert sorted(sample for one in packed for sample in one) == sorted(order)
    assert all(sum(lengths[sample] for sample in one) <= 32 for one in packed)
    place = {sample: at for at, sample in enumerate(order)}
    assert all(len({place[sample] // window for sample in one}) == 1 for one in packed)
    assert [place[one[0]] for one in packed] == sorted(place[one[0]] for one in packed)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 32), max_size=60), size=st.integers(1, 6), window=st.integers(1, 20))
def test_groups_visit_each_sample_once_and_only_the_last_is_short(
    lengths: list[int], size: int, window: int
) -> None:
    groups = list(packing.group(lengths, range(len(lengths)), size, window))

    assert sorted(sample for one in groups for sample in one) == list(range(len(lengths)))
    assert all(len(one) == size for one in groups[:-1])


def test_long_tailed_lengths_pack_nearly_full_and_group_with_little_padding() -> None:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.5, 0.8, 4000), 8, 2048).astype(int).tolist()
    order = generator.permutation(4000).tolist()

    packed = list(packing.pack(lengths, order, 2048))
    groups = list(packing.group(lengths, order, 8))

    def padding(parts: Sequence[Sequence[int]]) -> float:
        room = sum(len(part) * packing.padded_length(max(lengths[s] for s in part)) for part in parts)
        return 1 - sum(lengths) / room

    assert sum(lengths) / (2048 * len(packed)) > 0.98
    assert padding(groups) < 0.15 < padding([order[at : at + 8] for at in range(0, 4000, 8)])
