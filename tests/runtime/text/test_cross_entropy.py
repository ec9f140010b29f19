"""The chunked loss is the whole one, in a fraction of its memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lorac.estimate.trace import measure, trace
from runtime.text import packing
from runtime.text.cross_entropy import Head, Targets, loss_sums, targets_of
from runtime.text.packing import IGNORED
from runtime.text.render import Tokens

VOCABULARY, WIDTH = 31, 8
WAYS = [{}, {"softcap": 2.0}, {"scale": 0.3}, {"scale": 3.0, "softcap": 1.5}]


def batch() -> packing.Batch:
    def sample(length: int, start: int) -> Tokens:
        ids = tuple((start + 7 * place) % VOCABULARY for place in range(length))
        return Tokens(ids=ids, trained=tuple(place % 3 != 1 for place in range(length)))

    return packing.packed([[sample(7, 1), sample(5, 2)], [sample(1, 3), sample(9, 4)]], 14, pad=0)


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of the batch, a head's weight and its bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 14, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    hidden, weight, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes
    )
    return hidden.requires_grad_(), weight, bias


def whole(hidden: Tensor, head: Head, given: packing.Batch) -> Tensor:
    """The loss as the books have it: all logits, then their cross-entropy."""
    logits = F.linear(hidden, head.weight, head.bias) * head.scale
    if head.softcap:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    each = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), given.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    owners = given.samples[:, 1:].flatten()
    return torch.stack([each[owners == number].sum() for number in range(int(given.samples.max()) + 1)])


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("trained", ["hidden", "weight", "bias", "all"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_losses_and_gradients_are_those_of_the_whole_logits(
    way: dict[str, float], trained: str, chunk: int
) -> None:
    given = batch()
    hidden, weight, bias = tensors()
    parts = {"hidden": hidden, "weight": weight, "bias": bias}
    learned = list(parts.values()) if trained == "all" else [parts[trained]]
    for part in parts.values():
        part.requires_grad_(any(part is one for one in learned))
    head = Head(weight=weight, bias=bias, **way)
    factors = torch.tensor([0.5, -2.0, 0.0, 3.0], dtype=torch.float64)

    ours = loss_sums(hidden, head, targets_of(given.labels, given.samples), chunk)
    theirs = whole(hidden, head, given)

    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((ours * factors).sum(), learned),
        torch.autograd.grad((theirs * factors).sum(), learned),
        rtol=1e-11,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("family", "given", "way"),
    [
        ("Llama", {}, {}),
        ("Gemma2", {"final_logit_softcapping": 0.2}, {"softcap": 0.2}),
        ("Granite", {"logits_scaling": 8.0}, {"scale": 1 / 8}),
        ("Cohere", {"logit_scale": 0.25, "eos_token_id": 1}, {"scale": 0.25}),
    ],
)
def test_losses_are_those_of_the_models_that_bend_their_logits(
    family: str, given: dict[str, float], way: dict[str, float]
) -> None:
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "pad_token_id": 0,
        "attn_implementation": "eager",
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, f"{family}Config")(**sizes, **given)
    )
    texts = batch()
    targets = targets_of(texts.labels, texts.samples)

    logits = model(**packing.inputs(texts)).logits
    hidden = model.model(**packing.inputs(texts)).last_hidden_state
    ours = loss_sums(hidden, Head(weight=model.lm_head.weight, **way), targets)

    each = F.cross_entropy(logits.flatten(0, 1)[targets.places], targets.tokens, reduction="none")
    torch.testing.assert_close(ours, torch.zeros(4).index_add(0, targets.samples, each))


def test_targets_are_predicted_from_the_token_before_in_the_same_sample() -> None:
    given = batch()

    targets = targets_of(given.labels, given.samples)

    ids, samples = given.input_ids.flatten(), given.samples.flatten()
    assert (ids[targets.places + 1] == targets.tokens).all()
    assert (samples[targets.places] == targets.samples).all()
    assert (samples[targets.places + 1] == targets.samples).all()
    assert len(targets.tokens) == int((given.labels != IGNORED).sum())
    assert targets.count == 4


def test_half_precision_sums_in_float32() -> None:
    given = batch()
    hidden, weight, bias = tensors(torch.bfloat16)
    targets = targets_of(given.labels, given.samples)

    ours = loss_sums(hidden, Head(weight=weight, bias=bias), targets)
    ours.sum().backward()

    logits = F.linear(hidden.detach(), weight, bias).float()
    each = F.cross_entropy(logits.flatten(0, 1)[targets.places], targets.tokens, reduction="none")
    exact = torch.zeros(4).index_add(0, targets.samples, each)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


def test_the_same_input_gives_the_same_bytes() -> None:
    given = batch()
    targets = targets_of(given.labels, given.samples)

    def once() -> tuple[Tensor, Tensor]:
        hidden, weight, _ = tensors(torch.float32)
        losses = loss_sums(hidden, Head(weight=weight), targets, 3)
        return losses.detach(), torch.autograd.grad(losses.sum(), hidden)[0]

    for first, second in zip(once(), once(), strict=True):
        assert torch.equal(first, second)


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    given = batch()
    hidden, weight, _ = tensors(torch.float32)

    losses = loss_sums(hidden * 1e4, Head(weight=weight), targets_of(given.labels, given.samples))
    (gradient,) = torch.autograd.grad(losses.sum(), hidden)

    assert losses.isfinite().all() and gradient.isfinite().all()


def test_a_loss_that_nobody_asks_gradients_of_keeps_none() -> None:
    given = batch()
    hidden, weight, _ = tensors()

    with torch.no_grad():
        losses = loss_sums(hidden, Head(weight=weight), targets_of(given.labels, given.samples))

    assert losses.grad_fn is None
    torch.testing.assert_close(losses, whole(hidden, Head(weight=weight), given).detach())


@pytest.mark.parametrize(("trains_head", "products"), [(False, 2), (True, 4)], ids=["frozen", "trained"])
def test_only_trained_tokens_go_through_the_head_and_a_frozen_one_is_gone_through_once_each_way(
    trains_head: bool, products: int
) -> None:
    given = batch()
    hidden, weight, _ = tensors()
    targets = targets_of(given.labels, given.samples)

    with FlopCounterMode(display=False) as counter:
        loss_sums(hidden, Head(weight=weight.requires_grad_(trains_head)), targets, 4).sum().backward()

    assert counter.get_total_flops() == products * 2 * len(targets.tokens) * VOCABULARY * WIDTH


def full_size(chunked: bool, trains_head: bool = False) -> Callable[[], Callable[[], None]]:
    """A step of a loss over 2048 tokens and 32,768 words, every second of them trained, in bf16."""

    def make() -> Callable[[], None]:
        head = nn.Linear(64, 32768, bias=False, dtype=torch.bfloat16).requires_grad_(trains_head)
        hidden = torch.randn(2, 1024, 64, dtype=torch.bfloat16).requires_grad_()
        places = torch.arange(0, 2048, 2)
        targets = Targets(
            places=places, tokens=torch.zeros_like(places), samples=torch.zeros_like(places), count=1
        )

        def step() -> None:
            if chunked:
                loss = loss_sums(hidden, Head(weight=head.weight), targets, 64).sum()
            else:
                loss = F.cross_entropy(head(hidden).float().flatten(0, 1)[places], targets.tokens)
            loss.backward()
            hidden.grad = head.weight.grad = None

        return step

    return make


@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen", "trained"])
def test_the_traced_peak_is_far_below_the_logits(trains_head: bool) -> None:
    logits = 2048 * 32768 * 4
    whole_peak = trace(full_size(False, trains_head), device="cpu").peak.bytes
    peak = trace(full_size(True, trains_head), device="cpu").peak.bytes

    assert whole_peak > logits
    assert peak < logits / 6


def test_a_packed_step_is_traced_as_it_is_measured() -> None:
    texts = batch()
    targets = targets_of(texts.labels, texts.samples)

    def make() -> Callable[[], None]:
        config = transformers.LlamaConfig(
            vocab_size=4096,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
        model = transformers.LlamaForCausalLM(config)

        def step() -> None:
            hidden = model.model(**packing.inputs(texts)).last_hidden_state
            loss_sums(hidden, Head(weight=model.lm_head.weight), targets, 4).sum().backward()
            model.zero_grad()

        return step

    traced, measured = trace(make, device="cpu"), measure(make)

    assert traced.peak.bytes == pytest.approx(measured.peak.bytes, rel=0.01)


@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen", "trained"])
def test_fake_tensors_go_forward_and_back(trains_head: bool) -> None:
    given = batch()
    targets = targets_of(given.labels, given.samples)
    with FakeTensorMode() as mode:
        hidden, weight, bias = (mode.from_tensor(tensor) for tensor in tensors())
        weight.requires_grad_(trains_head)
        fakes = Targets(
            places=mode.from_tensor(targets.places),
            tokens=mode.from_tensor(targets.tokens),
            samples=mode.from_tensor(targets.samples),
            count=targets.count,
        )

        losses = loss_sums(hidden, Head(weight=weight, bias=bias, softcap=2.0), fakes, 5)
        losses.sum().backward()

    assert isinstance(losses, FakeTensor) and losses.shape == (4,)
    assert hidden.grad is not None and hidden.grad.shape == hidden.shape
    assert (weight.grad is not None) == trains_head
