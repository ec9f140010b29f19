"""Measure this machine: what matrix products, convolutions, attention, memory and a call's launch really take.

- An operator is timed alone at several sizes, and its FLOPs and bytes are those that the tracer counts for the same
  call. All of them run in turn, for several rounds, and the median counts: a noise hits a round, not an operator.
- Operators that compute get a line (start, FLOPs, bytes) by least squares of the relative error, those that only move
  memory a curve over bytes.
- What is left is the launch: a small network's step, less what its calls take by these figures.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import attrs
import cattrs
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F

from lorac.estimate import roofline
from lorac.estimate.cards import Calibration, Card, Curve, Line, Measured, Probe, calibration_path
from lorac.estimate.owners import Owners
from lorac.estimate.record import Call
from lorac.estimate.recorder import Recorder
from lorac.estimate.trace import measure
from lorac.places import versions
from runtime.safeio import atomic, strict_json

aten = torch.ops.aten

ROUNDS = 5
LEAST_SECONDS = 2e-3
"""How long an operator is repeated in a round, at least: far above the clock's grain."""
KEPT = 16
"""Results that are kept while an operator is repeated."""
LONGEST = 0.05
"""Seconds of one call past which a probe is too slow to be worth its time, as float16 products on most CPUs."""

PRODUCTS = (
    *((m, k, n) for m in (64, 256, 1024) for k, n in ((64, 64), (320, 4), (4, 320), (768, 32), (32, 768))),
    *((m, k, n) for m in (77, 256, 1024) for k, n in ((320, 320), (320, 1280), (1280, 320))),
    (4096, 320, 320),
    (256, 1280, 1280),
)
"""Rows, inner and outer sizes of matrix products: those of layers, and of low-rank adapters."""

BATCHED = ((8, 64, 64, 40), (8, 256, 256, 40), (16, 128, 128, 64), (4, 512, 64, 512))
"""Batch, rows, inner and outer sizes."""

CONVOLUTIONS = (
    *(
        (1, channels, side, channels, 3)
        for channels, side in ((32, 16), (32, 64), (64, 8), (64, 32), (128, 16))
    ),
    *((1, channels, side, channels, 3) for channels, side in ((128, 32), (320, 8), (320, 16), (512, 8))),
    *((4, channels, side, channels, 3) for channels, side in ((32, 32), (64, 16), (128, 8))),
    *((1, channels, side, channels, 3) for channels in (64, 128, 256, 512) for side in (2, 4)),
    (1, 4, 32, 64, 3),
    (1, 256, 16, 128, 3),
    (1, 64, 32, 64, 1),
    (1, 320, 16, 320, 1),
)
"""Batch, channels in, side, channels out, side of the kernel."""

ATTENTIONS = (
    *((1, 8, length, length, size) for length in (64, 256, 1024) for size in (8, 32, 64)),
    *((2, 4, length, 77, size) for length in (16, 64, 256, 1024) for size in (8, 40)),
    *((8, 8, length, keys, 16) for length in (4, 16, 64) for keys in (length, 77)),
    (4, 8, 128, 128, 16),
)
"""Batch, heads, queries, keys, size of a head."""

LENGTHS = (2**10, 2**13, 2**16, 2**18, 2**20, 2**22)
"""Elements of what an operator that only moves memory is timed on."""

FAR, PARTS = 2**26, 256
"""A step comes to a weight when it has long left the caches: bytes that weights lie in, and how many at most."""

DTYPES = (torch.float32, torch.bfloat16)
PEAK = (1024, 1024, 1024)
"""The product whose rate is a card's figure for a dtype."""

Work = Callable[[], Any]


@attrs.define
class Timed:
    """A call to be timed: the tracer's FLOPs and bytes of it, and the seconds that each round took."""

    call: Call
    work: Work
    seconds: list[float] = attrs.Factory(list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def calibrate(device: str, threads: int, step: Callable[[str], None] = lambda what: None) -> Calibration:
    """Measure `device` ("cpu" or "cuda"), the CPU with `threads`. `step` is called `steps(…)` times, as it goes on."""
    with _as_in_a_run(device, threads), torch.no_grad():
        probes = list(_probes(device))
        for _ in range(ROUNDS):
            for probe in probes:
                probe.seconds.append(_seconds(probe.work, device))
            step("operators")
        peaks = {dtype: _rate(dtype, device) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
        step("rates")
    by_operator: dict[str, dict[str, list[Timed]]] = defaultdict(lambda: defaultdict(list))
    for probe in probes:
        by_operator[probe.call.operator][probe.call.dtype].append(probe)
    computing, moving = {}, {}
    for operator, dtypes in by_operator.items():
        if any(probe.call.flops for found in dtypes.values() for probe in found):
            computing[operator] = {dtype: line(found) for dtype, found in dtypes.items()}
        else:
            moving[operator] = {dtype: curve(found) for dtype, found in dtypes.items()}
    measured = Measured(
        threads=threads if device == "cpu" else 0,
        versions=versions(),
        computing=computing,
        moving=moving,
        launch={},
    )
    largest = moving["add"]["float32"]
    found = Calibration(
        device=_name(device),
        bandwidth=largest.bytes[-1] / largest.seconds[-1],
        fp32=peaks[torch.float32] or 1.0,
        fp16=peaks[torch.float16],
        bf16=peaks[torch.bfloat16],
        launch=0.0,
        measured=measured,
    )
    with _as_in_a_run(device, threads):
        launch = _launches(found, device)
    step("launches")
    return attrs.evolve(found, launch=launch["forward"], measured=attrs.evolve(measured, launch=launch))


STEPS = ROUNDS + 2
"""How often `calibrate` calls `step`."""


def keep(found: Calibration) -> Path:
    """Write it where `cards.cpu()` and `cards.detected()` look. Raises MachineError."""
    path = calibration_path(found.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, strict_json.canonical(cattrs.unstructure(found)))
    return path


# -------------------------------------------------------------------------------------------------------- probes


def _probes(device: str) -> Iterator[Timed]:
    """Every call to be timed. A dtype that the device does not compute in, or crawls in, is left out."""
    for dtype in DTYPES:
        for work in itertools.chain(_computing(dtype, device), _moving(dtype, device)):
            yield _probe(work)


def _probe(work: Work) -> Timed:
    recorder = Recorder(Owners(), fake=False)
    with recorder:
        work()
    call = max(recorder.calls, key=lambda call: (call.flops, call.bytes))
    return Timed(call, work)


def _computing(dtype: torch.dtype, device: str) -> Iterator[Work]:
    def new(*shape: int) -> Tensor:
        return _tensor(shape, dtype, device)

    def far(*shape: int) -> Far:
        return _far(shape, dtype, device)

    for m, k, n in PRODUCTS:
        yield _of(lambda x, weight: torch.mm(x, weight.t()), new(m, k), far(n, k))  # a layer's forward
        yield _of(torch.mm, new(m, n), far(n, k))  # and the gradient of its input
        yield _of(lambda bias, x, weight: torch.addmm(bias, x, weight.t()), new(n), new(m, k), far(n, k))
    for b, m, k, n in BATCHED:
        yield _of(torch.bmm, new(b, m, k), new(b, k, n))
    for b, channels, side, out, kernel in CONVOLUTIONS:
        x, weight, gradient = (
            new(b, channels, side, side),
            far(out, channels, kernel, kernel),
            new(b, out, side, side),
        )
        how = ([1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1)
        yield _of(aten.convolution, x, weight, new(out), *how)
        yield _of(aten.convolution_backward, gradient, x, weight, None, *how, [True, False, False])
    if device == "cpu":
        for b, heads, queries, keys, size in ATTENTIONS:
            q, k, v = (new(b, length, heads, size).transpose(1, 2) for length in (queries, keys, keys))
            out, sums = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
            backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
            yield _of(aten._scaled_dot_product_flash_attention_for_cpu, q, k, v)
            yield _of(backward, out.clone(), q, k, v, out, sums, 0.0, False)


def _moving(dtype: torch.dtype, device: str) -> Iterator[Work]:
    other = torch.float32 if dtype is torch.bfloat16 else torch.bfloat16
    for length in LENGTHS:
        pixels = length // 64
        height = 2 ** (pixels.bit_length() // 2)
        rows, one, scale = (_tensor(shape, dtype, device) for shape in ((pixels, 64), (64,), (pixels, 1)))
        also = rows.clone()
        picture = _tensor((1, 64, height, pixels // height), dtype, device)
        yield _of(torch.add, rows, also)
        yield _of(torch.mul, rows, scale)
        yield _of(lambda x, dtype: x.to(dtype), rows.to(other), dtype)
        yield _of(lambda x: x.transpose(1, 2).contiguous(), _tensor((1, pixels, 64), dtype, device))
        yield _of(lambda x: torch.cat((x[:, :32], x[:, 32:]), 1), rows)
        yield _of(torch.neg, rows)
        yield _of(torch.pow, rows, 2)
        yield _of(lambda x: x.sum(-1, keepdim=True), rows)
        yield _of(lambda x: x.mean(-1, keepdim=True), rows)
        yield _of(aten.slice_backward, rows[:, :32], rows.shape, 1, 0, 32, 1)
        for function in (F.silu, F.gelu, torch.sigmoid):
            yield _of(function, rows)
        for function in (aten.silu_backward, aten.gelu_backward, aten.sigmoid_backward):
            yield _of(function, rows, also)
        for function in (aten._softmax, aten._log_softmax):
            yield _of(function, rows, -1, False)
        for function in (aten._softmax_backward_data, aten._log_softmax_backward_data):
            yield _of(function, rows, also, -1, dtype)
        yield _of(aten.native_layer_norm, rows, [64], one, one, 1e-5)
        _, *saved = aten.native_layer_norm(rows, [64], one, one, 1e-5)
        yield _of(aten.native_layer_norm_backward, also, rows, [64], *saved, one, one, [True, False, False])
        shape = (1, 64, pixels, 32)
        yield _of(aten.native_group_norm, picture, one, one, *shape, 1e-5)
        _, *saved = aten.native_group_norm(picture, one, one, *shape, 1e-5)
        before = picture.clone()
        yield _of(aten.native_group_norm_backward, before, picture, *saved, one, *shape, [True, False, False])
        yield _of(aten.upsample_nearest2d, picture, [2 * side for side in picture.shape[2:]])


def _of(function: Callable[..., Any], *arguments: Any) -> Work:
    """The call; an argument that is a `Far` is another tensor each time."""
    if not any(isinstance(argument, Far) for argument in arguments):
        return partial(function, *arguments)
    return lambda: function(*(next(a) if isinstance(a, Far) else a for a in arguments))


class Far(Iterator[Tensor]):
    """Tensors of a shape that lie far apart, so that none is still in a cache when it comes round again."""

    def __init__(self, pool: Tensor, shape: tuple[int, ...]) -> None:
        size = math.prod(shape)
        parts = [pool[at : at + size].view(shape) for at in range(0, len(pool) - size + 1, size)]
        self.turn = itertools.cycle(parts[:: max(1, len(parts) // PARTS)])

    def __next__(self) -> Tensor:
        return next(self.turn)


def _far(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Far:
    return Far(_tensor((FAR // dtype.itemsize,), dtype, device), shape)


@cache
def _tensor(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Numbers of a size that no operator makes infinite or denormal."""
    return torch.rand(shape, device=device).add_(0.5).to(dtype)


# -------------------------------------------------------------------------------------------------------- timing


def _seconds(work: Work, device: str, least: float = LEAST_SECONDS) -> float:
    """Seconds of one call, the first one left out."""
    work()
    _wait(device)
    began = time.perf_counter()
    times = 0
    kept: deque[Any] = deque(maxlen=KEPT)  # as a step keeps what it saves: the next result lies elsewhere
    while not times or time.perf_counter() - began < least:
        kept.append(work())
        times += 1
        if device == "cuda" and times % 16 == 0:
            _wait(device)
    _wait(device)
    return (time.perf_counter() - began) / times


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _rate(dtype: torch.dtype, device: str) -> float | None:
    """FLOP/s of a large matrix product; of a smaller one where the device crawls in this dtype."""
    m, k, n = PEAK if device == "cpu" else (8 * size for size in PEAK)
    shrink = 1
    while True:
        a, b = (_tensor((size, k // shrink), dtype, device) for size in (m // shrink, n // shrink))
        taken = _seconds(lambda a=a, b=b: a @ b.t(), device, least=0.0)
        if taken < LONGEST or shrink == 8:
            best = statistics.median(_seconds(lambda a=a, b=b: a @ b.t(), device) for _ in range(ROUNDS))
            return 2 * m * k * n / shrink**3 / best
        shrink *= 2


@contextmanager
def _as_in_a_run(device: str, threads: int) -> Iterator[None]:
    """Threads and determinism as the runtime sets them: torch fills new memory then, which takes time."""
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    if device == "cpu":
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(before)
        _tensor.cache_clear()


def _name(device: str) -> str:
    return "cpu" if device == "cpu" else torch.cuda.get_device_properties(0).name


# -------------------------------------------------------------------------------------------------------- fitting


def line(probes: list[Timed]) -> Line:
    """What comes nearest in relative error, none of it below zero."""
    rows = np.array([[1.0, p.call.flops, p.call.bytes, p.call.rows, p.call.cells] for p in probes])
    rows /= np.array([[probe.median] for probe in probes])
    best, least = np.zeros(rows.shape[1]), np.inf
    for count in range(1, rows.shape[1] + 1):
        for terms in itertools.combinations(range(rows.shape[1]), count):
            scale = rows[:, terms].max(axis=0)
            if not scale.all():
                continue
            found = np.linalg.lstsq(rows[:, terms] / scale, np.ones(len(rows)), rcond=None)[0] / scale
            error = float(((rows[:, terms] @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(rows.shape[1]), error
                best[list(terms)] = found
    calls = [probe.call for probe in probes]
    return Line(
        *map(float, best),
        probes=tuple(
            Probe(call.flops, call.bytes, call.rows, call.cells, probe.median)
            for call, probe in zip(calls, probes, strict=True)
        ),
    )


def curve(probes: list[Timed]) -> Curve:
    """Seconds over bytes; calls of the same bytes are averaged."""
    by_bytes: dict[int, list[float]] = defaultdict(list)
    for probe in probes:
        by_bytes[probe.call.bytes].append(probe.median)
    sizes = sorted(by_bytes)
    return Curve(tuple(sizes), tuple(statistics.mean(by_bytes[size]) for size in sizes))


# -------------------------------------------------------------------------------------------------------- launches


def _small() -> nn.Module:
    """A UNet by diffusers with peft's LoRA on it, so small that a call takes little more than its launch."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    inject_adapter_in_model(config, unet.requires_grad_(False))
    return unet.train()


def _launches(found: Calibration, device: str) -> dict[str, float]:
    """Seconds that a call of each pass takes beside its work, from a small network's step."""
    model: Any = _small().to(device)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, foreach=True)
    latents, context = torch.rand(1, 4, 8, 8, device=device), torch.rand(1, 8, 32, device=device)
    moment = torch.zeros(1, dtype=torch.long, device=device)

    def loss() -> Tensor:
        return cast(Tensor, model(latents, moment, encoder_hidden_states=context).sample.square().mean())

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    taken: dict[str, list[float]] = defaultdict(list)
    calls: dict[str, list[Call]] = {}
    for again in (False, True):
        _recomputing(model, again)
        for call in measure(lambda: step, steps=2).calls:
            if call.during != "recompute" or again:
                calls.setdefault(f"{call.during}{again:d}", []).append(call)
    for _ in range(ROUNDS * 4):
        for again in (False, True):
            _recomputing(model, again)
            began = time.perf_counter()
            said = loss()
            _wait(device)
            taken[f"forward{again:d}"].append(time.perf_counter() - began)
            began = time.perf_counter()
            said.backward()
            _wait(device)
            taken[f"backward{again:d}"].append(time.perf_counter() - began)
            began = time.perf_counter()
            optimizer.step()
            _wait(device)
            taken[f"optimizer{again:d}"].append(time.perf_counter() - began)
            optimizer.zero_grad(set_to_none=True)
    bare = Card(
        name=found.device,
        device="cuda" if device == "cuda" else "cpu",
        memory=0,
        usable=0,
        capability=(0, 0),
        multiprocessors=1,
        bandwidth=found.bandwidth,
        fp32=found.fp32,
        launch=0.0,
        measured=found.measured,
    )
    median = {name: statistics.median(times) for name, times in taken.items()}
    launch = {}
    for name in ("forward", "backward", "optimizer"):
        work = roofline.seconds(calls[f"{name}0"], bare)
        launch[name] = max(0.0, median[f"{name}0"] - work) / len(calls[f"{name}0"])
    extra = median["backward1"] - median["backward0"] + max(0.0, median["forward1"] - median["forward0"])
    work = roofline.seconds(calls["recompute1"], bare)
    launch["recompute"] = max(0.0, extra - work) / len(calls["recompute1"])
    return launch


def _recomputing(model: Any, again: bool) -> None:
    if again:
        model.enable_gradient_checkpointing()
    else:
        model.disable_gradient_checkpointing()
