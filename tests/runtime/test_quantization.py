"""Quantised linear layers: what they hold, what they compute, what they keep, and what the tracer sees of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import runtime.families  # noqa: F401  # sets bitsandbytes up before anything imports it
from lorac.estimate.trace import materialize, measure, trace
from runtime import adapters, plan
from runtime.adapters import adapted
from runtime.errors import MachineError, PlanError
from runtime.quantization import QuantisedLinear, quantise

KINDS = ["nf4", "int8", "fp8"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(96, 80), (80, 36), (300, 200), (10, 3)]
"""In and out: whole and part blocks of 64, one and several blocks of 256 scales."""

each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_size = pytest.mark.parametrize("size", SIZES)


def linear(size: tuple[int, int], dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A layer of normally distributed weights whose rows differ tenfold in size."""
    generator = torch.Generator().manual_seed(7)
    layer = nn.Linear(*size)
    with torch.no_grad():
        rows = torch.logspace(-2, -1, size[1])
        layer.weight.copy_(torch.randn(size[1], size[0], generator=generator) * rows[:, None])
        layer.bias.copy_(torch.randn(size[1], generator=generator))
    return layer.to(dtype)


def quantised(layer: nn.Linear, kind: str, dtype: torch.dtype = torch.float32) -> QuantisedLinear:
    """`layer` in `kind`."""
    holder = nn.Sequential(layer)
    assert quantise(holder, kind, dtype) == ["0"]
    made = holder[0]
    assert isinstance(made, QuantisedLinear)
    return made


def blocks(bias: bool = True) -> nn.Sequential:
    """Two linear layers with other things between, and one within another module."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(64, 128, bias=bias), nn.GELU(), nn.LayerNorm(128), nn.Sequential(nn.Linear(128, 64))
    )


# ---------------------------------------------------------------------------------------------------- what is held


@each_dtype
@each_size
def test_nf4_is_what_bitsandbytes_makes(size: tuple[int, int], dtype: torch.dtype) -> None:
    from bitsandbytes import functional

    layer = linear(size, dtype)
    packed, state = functional.quantize_4bit(
        layer.weight.detach(), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    made = quantised(layer, "nf4", dtype)
    held = made.state_dict()
    assert torch.equal(held["packed"], packed)
    assert torch.equal(held["absmax"], state.absmax)
    assert torch.equal(made.weight, functional.dequantize_4bit(packed, state))


@each_kind
def test_the_bytes_do_not_depend_on_the_count_of_threads(kind: str) -> None:
    before = torch.get_num_threads()
    made = []
    torch.manual_seed(0)
    weight = (
        torch.randn(2560, 2560) * 0.02
    )  # whose scales' sum has other last bits on two threads than on one
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            layer = nn.Linear(2560, 2560, bias=False)
            layer.weight = nn.Parameter(weight.clone())
            made.append(quantised(layer, kind).state_dict())
    finally:
        torch.set_num_threads(before)
    first, *others = made
    assert all(torch.equal(other[name], tensor) for other in others for name, tensor in first.items())


def test_nf4_takes_a_little_over_half_a_byte_a_weight() -> None:
    made = quantised(nn.Linear(1024, 1024, bias=False), "nf4")
    table = 256 * 4
    took = sum(buffer.nbytes for buffer in made.buffers()) - table
    assert took / 1024**2 == pytest.approx(0.5 + 1 / 64 + 4 / 64 / 256, abs=1e-5)


@each_dtype
@each_size
def test_int8_is_half_a_step_from_the_weight_at_most(size: tuple[int, int], dtype: torch.dtype) -> None:
    weight = linear(size).weight.detach()
    made = quantised(linear(size), "int8", dtype)
    step = weight.abs().amax(1, keepdim=True) / 127
    exact = made.packed.double() * made.scale.double()[:, None]
    # The step itself is at most one unit in the last place of `dtype` longer; the unpacked weight is rounded to it.
    finest = torch.finfo(dtype).eps
    assert ((exact - weight).abs() <= step * 0.5 * (1 + finest) + 1e-9).all()
    assert ((made.weight.double() - exact).abs() <= exact.abs() * finest / 2 + 1e-9).all()


@each_size
def test_fp8_keeps_three_binary_digits_of_all_but_the_smallest_weights(size: tuple[int, int]) -> None:
    weight = linear(size).weight.detach()
    made = quantised(linear(size), "fp8")
    scale = made.scale[:, None]
    assert made.packed.dtype is torch.float8_e4m3fn
    assert ((made.weight - weight).abs() <= torch.maximum(weight.abs() / 16, scale * 2**-10) + 1e-9).all()
    assert torch.equal(made.packed.float().abs().amax(1), torch.full((size[1],), 448.0))


@each_dtype
def test_int8_rows_of_zeros_stay_zeros_and_small_rows_keep_their_size(dtype: torch.dtype) -> None:
    layer = nn.Linear(16, 2, bias=False)
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[1] = 1e-5 * torch.linspace(-1, 1, 16)
    rows = quantised(layer, "int8", dtype).weight.float()
    assert rows[0].abs().max() == 0
    assert torch.allclose(rows[1], 1e-5 * torch.linspace(-1, 1, 16), rtol=0, atol=2e-7)


@each_kind
def test_a_state_dict_brings_the_weight_back(kind: str) -> None:
    made = quantised(linear((96, 80)), kind)
    other = quantised(nn.Linear(96, 80), kind)
    assert not torch.equal(made.weight, other.weight)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made.weight, other.weight)


@each_kind
def test_casting_a_model_leaves_its_quantised_layers_as_they_were_made(kind: str) -> None:
    made = quantised(linear((96, 80)), kind, torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    nn.Sequential(made).half()
    after = made.state_dict()
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert made(torch.zeros(1, 96, dtype=torch.bfloat16)).dtype is torch.bfloat16


# ------------------------------------------------------------------------------------------------ what is replaced


def test_only_plain_linear_layers_are_replaced() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(4, 4),
            "conv": nn.Conv2d(4, 4, 1),
            "norm": nn.LayerNorm(4),
            "own": Own(4, 4),
            "attention": nn.MultiheadAttention(4, 1),
            "plain": nn.Linear(4, 4),
        }
    )
    before = {name: type(module) for name, module in model.named_modules()}
    assert quantise(model, "int8", torch.float32) == ["plain"]
    after = {name: type(module) for name, module in model.named_modules()}
    assert {name for name in before if before[name] is not after[name]} == {"plain"}


@pytest.mark.parametrize("only", [{"0", "lm_head"}, lambda path: path == "0"])
def test_layers_are_chosen_by_path(only: set[str] | Callable[[str], bool]) -> None:
    model = blocks()
    assert quantise(model, "int8", torch.float32, only) == ["0"]
    assert type(model[3][0]) is nn.Linear
    assert quantise(model, "int8", torch.float32) == ["3.0"]


def test_a_layer_that_hangs_in_two_places_stays_one() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Sequential(shared))
    assert quantise(model, "int8", torch.float32) == ["0", "1.0"]
    assert model[0] is model[1][0]


@each_kind
def test_each_float_weight_is_freed_before_the_next_layer(kind: str) -> None:
    count, size = 32, 128 * 128 * 4

    def make() -> Callable[[], None]:
        model = nn.Sequential(*(nn.Linear(128, 128, bias=False) for _ in range(count)))

        def step() -> None:
            quantise(model, kind, torch.float32)

        return step

    packed = 128 * 128
    one_layers_copies = 3 * size
    assert measure(make, steps=1).peak.bytes <= count * size + packed + one_layers_copies


def test_a_quantised_base_is_frozen() -> None:
    model = blocks()
    quantise(model, "int8", torch.float32)
    assert not any(parameter.requires_grad for parameter in (*model[0].parameters(), *model[3].parameters()))
    assert not model[0].weight.requires_grad


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(PlanError, match="must be one of nf4, int8, fp8 to quantise, got 'nf5'"):
        quantise(blocks(), "nf5", torch.float32)


def test_nf4_without_bitsandbytes_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    model = blocks()
    with pytest.raises(MachineError) as caught:
        quantise(model, "nf4", torch.float32)
    error, hint = caught.value.lines()
    assert error == "error: bitsandbytes: is not installed, and nf4 needs it"
    assert ".[quantize]" in hint
    assert type(model[0]) is nn.Linear


# ------------------------------------------------------------------------------------------------ what is computed


@each_kind
@each_dtype
@pytest.mark.parametrize("shape", [(96,), (5, 96), (2, 5, 96)])
def test_it_computes_as_a_linear_layer_of_its_weight(
    kind: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    made = quantised(linear((96, 80)), kind, dtype)
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, theirs = (given.clone().requires_grad_() for _ in range(2))
    out, expected = made(ours), F.linear(theirs, made.weight, made.bias)
    assert out.dtype is dtype
    assert torch.equal(out, expected)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    out.backward(grad)
    expected.backward(grad)
    assert torch.allclose(grad_of(ours), grad_of(theirs), rtol=torch.finfo(dtype).eps * 4, atol=1e-6)


def grad_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


@contextmanager
def counting_saved() -> Iterator[list[Tensor]]:
    """The tensors that autograd keeps for a backward inside."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


@each_kind
def test_nothing_but_the_packed_weight_is_kept_for_the_backward(kind: str) -> None:
    made = quantised(linear((96, 80)), kind)
    given = torch.randn(5, 96, requires_grad=True)
    with counting_saved() as saved:
        out = made(given)
    assert [tensor.data_ptr() for tensor in saved] == [made.packed.data_ptr()]
    held = out.grad_fn
    assert not any(isinstance(value, Tensor) for value in vars(held).values())
    assert made(given.detach()).grad_fn is None


@each_kind
def test_the_backward_of_a_recomputed_block_is_the_same(kind: str) -> None:
    model = blocks()
    quantise(model, kind, torch.float32)
    given = torch.randn(3, 64)
    plain, again = (given.clone().requires_grad_() for _ in range(2))
    model(plain).square().sum().backward()
    torch.utils.checkpoint.checkpoint(model, again, use_reentrant=False).square().sum().backward()
    assert torch.equal(grad_of(plain), grad_of(again))


# ----------------------------------------------------------------------------------------------------- with LoRA


ADAPTER = plan.Adapter(
    method="lora",
    rank=4,
    alpha=4.0,
    dropout=0.0,
    init="kaiming",
    targets={"unet": r"0|3\.0"},
    modules={"unet": 2},
)


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_goes_on_and_learns(kind: str, dtype: torch.dtype) -> None:
    model = blocks().to(dtype)
    quantise(model, kind, dtype)
    packed = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert adapters.attach(model, r"0|3\.0", ADAPTER) == ["0", "3.0"]
    adapted.initialise(model, "unet", seed=1)
    learned = adapted.parameters(model)
    assert {parameter.dtype for parameter in learned.values()} == {dtype}
    for parameter in learned.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(learned.values(), lr=1e-2)
    generator = torch.Generator().manual_seed(5)
    given, wanted = (torch.randn(16, 64, generator=generator).to(dtype) for _ in range(2))
    losses = []
    for _ in range(30):
        loss = F.mse_loss(model(given), wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert len(packed) == len(dict(model.named_buffers()))
    after = {name.replace(".base_layer", ""): buffer for name, buffer in model.named_buffers()}
    assert all(torch.equal(after[name], buffer) for name, buffer in packed.items())


@each_kind
def test_loras_gradients_are_those_over_the_unpacked_weight(kind: str) -> None:
    packed, floating = blocks(), blocks()
    quantise(packed, kind, torch.float32)
    with torch.no_grad():
        floating[0].weight.copy_(packed[0].weight)
        floating[3][0].weight.copy_(packed[3][0].weight)
    given = torch.randn(6, 64, generator=torch.Generator().manual_seed(2))
    found = []
    for model in (packed, floating):
        adapters.attach(model, r"0|3\.0", ADAPTER)
        adapted.initialise(model, "unet", seed=1)
        learned = adapted.parameters(model)
        for name, parameter in learned.items():
            parameter.requires_grad_(True)
            if name.endswith(".B"):
                nn.init.constant_(parameter, 0.01)
        model(given).square().mean().backward()
        found.append({name: grad_of(parameter) for name, parameter in learned.items()})
    for name, grad in found[0].items():
        assert grad.abs().max() > 0
        assert torch.allclose(grad, found[1][name], rtol=1e-4, atol=1e-7), name


# -------------------------------------------------------------------------------------------------- without values


@each_kind
@each_size
@each_dtype
def test_on_meta_a_layer_has_the_shapes_of_a_real_one(
    kind: str, size: tuple[int, int], dtype: torch.dtype
) -> None:
    def described(layer: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype, bool]]:
        return {
            name: (tuple(tensor.shape), tensor.dtype, isinstance(tensor, nn.Parameter))
            for name, tensor in layer.state_dict(keep_vars=True).items()
        }

    real = quantised(linear(size), kind, dtype)
    with torch.device("meta"):
        layer = nn.Linear(*size)
    meta = quantised(layer, kind, dtype)
    assert {tensor.device.type for tensor in (*meta.parameters(), *meta.buffers())} == {"meta"}
    assert described(meta) == described(real)
    assert (meta.weight.shape, meta.weight.dtype) == (real.weight.shape, real.weight.dtype)


@each_kind
@each_dtype
def test_it_runs_forward_and_backward_on_fake_tensors(kind: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        made = quantised(nn.Linear(96, 80), kind, dtype)
        given = torch.empty(2, 5, 96, dtype=dtype, requires_grad=True)
        out = made(given)
        out.sum().backward()
        assert (tuple(out.shape), out.dtype) == ((2, 5, 80), dtype)
        assert grad_of(given).shape == given.shape
    again = quantised(linear((96, 80)), kind)  # nothing fake was kept for real ones
    assert torch.isfinite(again(torch.ones(1, 96))).all()


def training(kind: str | None, batch: int) -> Callable[[], Callable[[], None]]:
    """A frozen wide base in `kind` with LoRA on it, and AdamW."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512))
    if kind is not None:
        quantise(model, kind, torch.float32)
    adapters.attach(model, "0|2", ADAPTER)

    def make() -> Callable[[], None]:
        materialize(model)
        learned = adapted.parameters(model)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()
        for parameter in learned.values():
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(learned.values(), foreach=True)

        def step() -> None:
            model(torch.ones(batch, 512)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


@each_kind
@pytest.mark.parametrize("batch", [1, 512])
def test_the_traced_peak_of_a_quantised_base_is_the_measured_one(kind: str, batch: int) -> None:
    traced = trace(training(kind, batch), device="cpu").peak.bytes
    assert traced == measure(training(kind, batch)).peak.bytes


@each_kind
def test_a_trace_shows_the_packed_base_and_one_unpacked_weight_at_a_time(kind: str) -> None:
    traced = trace(training(kind, 1))
    weight = 512 * 2048 * 4
    base = traced.peak.by_kind()["base weights"]
    assert base < (0.14 if kind == "nf4" else 0.26) * 2 * weight
    unpacked = [block for block in traced.blocks if block.bytes == weight]
    assert len(unpacked) == 3 * (2 + 1)  # three steps: both forwards, and the second layer's backward
    assert sum(block.bytes == weight for block in traced.peak.live) == 1
    assert traced.peak.bytes < trace(training(None, 1)).peak.bytes
