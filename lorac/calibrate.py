"""Measure this machine: what matrix products, convolutions, attention, memory and a call's launch really take.

- An operator is timed alone at several sizes, and its FLOPs and bytes are those that the tracer counts for the same
  call. All of them run in turn, for several rounds, and the median counts: a noise hits a round, not an operator.
- Operators that compute get a line (start, FLOPs, bytes) by least squares of the relative error, those that only move
  memory a curve over bytes.
- What is left is the launch: a small network's step, less what its calls take by these figures.
- Calls take longer in a step than each does alone: by how much, a larger network's step says.
- What torch's compiler takes, and saves of a block's time, a few such blocks say (`lorac.estimate.compiling`).
"""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import cattrs
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lorac.estimate import cards, compiling, roofline
from lorac.estimate.cards import Calibration, Compiling, Curve, Line, Measured, Probe, calibration_path
from lorac.estimate.owners import Owners
from lorac.estimate.record import Call
from lorac.estimate.recorder import Recorder
from lorac.estimate.trace import measure
from lorac.places import versions
from lorac.probes import Work, tensor, works
from runtime.safeio import atomic, strict_json

ROUNDS = 5
LEAST_SECONDS = 2e-3
"""How long an operator is repeated in a round, at least: far above the clock's grain."""
KEPT = 16
"""Results that are kept while an operator is repeated."""
LONGEST = 0.05
"""Seconds of one call past which a probe is too slow to be worth its time, as float16 products on most CPUs."""

DTYPES = (torch.float32, torch.bfloat16)
PEAK = (1024, 1024, 1024)
"""The product whose rate is a card's figure for a dtype."""

Tell = Callable[[str, float], None]


@attrs.define
class Timed:
    """A call to be timed: the tracer's FLOPs and bytes of it, and the seconds that each round took."""

    call: Call
    work: Work
    seconds: list[float] = attrs.Factory(list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def calibrate(device: str, threads: int, tell: Tell = lambda what, share: None) -> Calibration:
    """Measure `device` ("cpu" or "cuda"), the CPU with `threads`. `tell` hears what is done and the share of it."""
    with _as_in_a_run(device, threads), torch.no_grad():
        probes = list(_probes(device))
        for number in range(ROUNDS):
            for index, probe in enumerate(probes):
                probe.seconds.append(_seconds(probe.work, device))
                tell("operators", (number + (index + 1) / len(probes)) / (ROUNDS + 1))
        peaks = {dtype: _rate(dtype, device) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    computing: dict[str, dict[str, Line]] = defaultdict(dict)
    moving: dict[str, dict[str, Curve]] = defaultdict(dict)
    by_operator: dict[tuple[str, str], list[Timed]] = defaultdict(list)
    for probe in probes:
        by_operator[probe.call.operator, probe.call.dtype].append(probe)
    for (operator, dtype), found in by_operator.items():
        if found[0].call.flops:
            computing[operator][dtype] = line(found)
        else:
            moving[operator][dtype] = curve(found)
    largest = moving["add"]["float32"]
    own = Calibration(
        device=_name(device),
        bandwidth=largest.bytes[-1] / largest.seconds[-1],
        fp32=peaks[torch.float32],
        fp16=peaks[torch.float16],
        bf16=peaks[torch.bfloat16],
        launch=0.0,
        measured=Measured(
            threads=threads if device == "cpu" else 0,
            versions=versions(),
            computing=computing,
            moving=moving,
            launch={},
        ),
    )
    tell("launches", ROUNDS / (ROUNDS + 1))
    with _as_in_a_run(device, threads):
        launch = _launches(own, device)
        own = attrs.evolve(own, launch=launch["forward"], measured=attrs.evolve(own.measured, launch=launch))
        if device == "cpu":
            own = attrs.evolve(own, measured=attrs.evolve(own.measured, together=_together(own)))
            tell("compiling a block", ROUNDS / (ROUNDS + 1))
            card = cards.calibrated(cards.cpu(), own)
            own = attrs.evolve(
                own, measured=attrs.evolve(own.measured, compiling=compiling.measured(card, ROUNDS))
            )
    tell("launches", 1.0)
    return own


def keep(found: Calibration) -> Path:
    """Write it where `cards.cpu()` and `cards.detected()` look. Raises MachineError."""
    path = calibration_path(found.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, strict_json.canonical(cattrs.unstructure(found)))
    return path


def show(found: Calibration, path: Path, width: int) -> str:
    """The figures as a table, and where they are kept."""
    table = Table(title=f"{found.device}, {found.measured.threads or 'all'} threads", title_justify="left")
    for heading in ("what", "figure", "unit"):
        table.add_column(heading, justify="right" if heading == "figure" else "left")
    for name in ("fp32", "bf16", "fp16"):
        table.add_row(f"matrix product, {name}", f"{getattr(found, name) / 1e9:,.1f}", "GFLOP/s")
    for dtype, fitted in found.measured.computing["convolution"].items():
        rates = sorted(probe.flops / probe.seconds / 1e9 for probe in fitted.probes)
        table.add_row(f"convolutions, {dtype}", f"{rates[0]:,.1f} to {rates[-1]:,.1f}", "GFLOP/s")
    sums = found.measured.moving["add"]["float32"]
    fastest = max(size / seconds for size, seconds in zip(sums.bytes, sums.seconds, strict=True))
    table.add_row("memory, in the caches", f"{fastest / 1e9:,.1f}", "GB/s")
    table.add_row("memory, beyond them", f"{found.bandwidth / 1e9:,.1f}", "GB/s")
    for name, seconds in found.measured.launch.items():
        table.add_row(f"launch, {name}", f"{seconds * 1e6:,.1f}", "µs")
    table.add_row("work in a step, to work alone", f"{found.measured.together:.2f}", "times")
    if found.measured.compiling is not None:
        for name, figure, unit in _compiling(found.measured.compiling):
            table.add_row(name, figure, unit)
    console = Console(width=width, file=io.StringIO())
    with console.capture() as text:
        console.print(table)
    return f"{text.get()}wrote {path}"


def _compiling(found: Compiling) -> Iterator[tuple[str, str, str]]:
    """Rows of the table."""
    yield "compiling, once a process", f"{found.start:,.1f}", "s"
    yield "compiling, a call of a graph", f"{found.call * 1e3:,.1f}", "ms"
    yield "compiled, saved of what lies between", f"{found.saved:.0%}", ""


# -------------------------------------------------------------------------------------------------------- probes


def _probes(device: str) -> Iterator[Timed]:
    """Every call to be timed."""
    for dtype in DTYPES:
        for work in works(dtype, device):
            yield _timed(work, device)


def _timed(work: Work, device: str) -> Timed:
    recorder = Recorder(Owners())
    with recorder:
        work()
    call = max(recorder.calls, key=lambda call: (call.flops, call.bytes))
    if device == "cuda":  # what its kernels make for themselves is not in a trace
        call = attrs.evolve(call, rows=0, cells=0)
    return Timed(call, work)


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


def _rate(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a large matrix product; of a smaller one where the device crawls in this dtype."""
    m, k, n = PEAK if device == "cpu" else (8 * size for size in PEAK)
    for shrink in (1, 2, 4, 8):
        a, b = (tensor((size // shrink, k // shrink), dtype, device) for size in (m, n))
        work = partial(torch.mm, a, b.t())
        if _seconds(work, device, least=0.0) < LONGEST:
            break
    return 2 * m * k * n / shrink**3 / statistics.median(_seconds(work, device) for _ in range(ROUNDS))


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
        tensor.cache_clear()


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
    start, per_flop, per_byte, per_row, per_cell = map(float, best)
    return Line(
        start,
        per_flop,
        per_byte,
        per_row,
        per_cell,
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


SMALL = (32, 8)
"""Channels and the latent's side of a network so small that a call takes little more than its launch."""
LARGE = (80, 40)
"""Of one whose activations no cache holds, as in a real step."""


def _unet(channels: int, side: int) -> Any:
    """A UNet by diffusers with peft's LoRA on it."""
    unet: Any = UNet2DConditionModel(
        sample_size=side,
        block_out_channels=(channels, channels),
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
    model: Any = _unet(*SMALL).to(device)
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
    median = {name: statistics.median(times) for name, times in taken.items()}
    passes = {
        "forward": (median["forward0"], calls["forward0"]),
        "backward": (median["backward0"], calls["backward0"]),
        "optimizer": (median["optimizer0"], calls["optimizer0"]),
        "recompute": (median["backward1"] - median["backward0"], calls["recompute1"]),
    }
    bare = attrs.evolve(cards.calibrated(cards.cpu(), found), device="cpu", launch=0.0)
    launch = {}
    for name, (seconds, those) in passes.items():
        work = (
            roofline.seconds(those, bare) if device == "cpu" else 0.0
        )  # a GPU works while the next one is launched
        launch[name] = max(0.0, seconds - work) / len(those)
    return launch


def _recomputing(model: Any, again: bool) -> None:
    if again:
        model.enable_gradient_checkpointing()
    else:
        model.disable_gradient_checkpointing()


def _together(found: Calibration) -> float:
    """How many times as long calls take in a large network's step as each does alone; launches are left out."""
    channels, side = LARGE
    model = _unet(channels, side)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    latents, context = torch.rand(2, 4, side, side), torch.rand(2, 77, 32)
    moment = torch.zeros(2, dtype=torch.long)

    def step() -> None:
        model(latents, moment, encoder_hidden_states=context).sample.square().mean().backward()
        for parameter in learned:
            parameter.grad = None

    calls = measure(lambda: step, steps=1).calls
    card = cards.calibrated(cards.cpu(), found)
    launches = sum(found.measured.launch[call.during] for call in calls)
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    work = roofline.seconds(calls, card) - launches
    return max(1.0, (statistics.median(taken[1:]) - launches) / work)
