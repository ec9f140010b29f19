"""The phases of our own run, each as a step for the tracer: the train step is the very function the runtime runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lorac.estimate.record import Trace
from lorac.estimate.trace import label, materialize, on_host, trace
from runtime import plan
from runtime import step as train_step
from runtime.dtypes import DTYPES
from runtime.families import family
from runtime.families.protocol import Batch, Modules

GRID = 64
"""Side in pixels of a picture that stands for any where only its caption counts."""

HERE = torch.device("cpu")
"""Where fake tensors are, whatever the plan's device."""


def training(program: plan.Program, capability: tuple[int, int], whole: bool = False) -> Trace:
    """The step at its fullest: the optimizer has its state, and where the plan accumulates, gradients are held.

    That is one micro-batch as every later one finds things, at a quarter of the tracing. `whole` traces two
    optimizer steps from the start instead, each of two micro-batches where the plan accumulates: the same peak.
    """
    of = family(program.base.family)
    trained = list(program.adapter.targets)
    # Outside the tracer: peft moves what it makes to the base's device, meta.
    modules = bare(program, [of.DENOISER, *(c for c in trained if c != of.DENOISER)], program.compute.dtype)
    train_step.pack(of, modules, program.compute)
    train_step.attach(modules, program)
    encoders = [name for name in (*of.TEXT_ENCODERS, of.VAE) if name not in trained]
    stay = bare(program, [name for name in encoders if name not in program.compute.offloaded], "fp32")
    micro, accumulates = program.train.micro_batch, program.train.accumulation > 1

    def make() -> Callable[[], None]:
        materialize(*modules.values(), *stay.values())
        trainee = train_step.trainee(of, modules, program, HERE)
        if trainee.stream is not None:
            on_host(trainee.stream.host_tensors())
            trainee.stream.fetched = lambda tensors: label("base weights", tensors)
        if program.compute.dtype != "fp32":
            label("master weights", trainee.masters.values())
        width, height = largest_bucket(program.data)
        tokens = any(component in of.TEXT_ENCODERS for component in trained)
        batch = of.example(program.base.architecture, micro, width, height, tokens)
        label("inputs", batch.values())
        if not whole:
            _prefill(trainee, accumulates)
        count = 2 if whole and accumulates else 1

        def step() -> None:
            train_step.gradients(trainee, [(batch, range(micro))] * count, micro * count)
            train_step.update(trainee, 1.0)

        return step

    return trace(make, steps=2 if whole else 1, device=program.compute.device, capability=capability)


def _prefill(trainee: train_step.Trainee, accumulates: bool) -> None:
    """Give the optimizer its state, and leave gradients behind as a first micro-batch would."""
    for master in trainee.masters.values():
        master.grad = torch.zeros_like(master)
    trainee.optimizer.step()
    if not accumulates:
        trainee.optimizer.zero_grad(set_to_none=True)


def caching(program: plan.Program, capability: tuple[int, int]) -> Trace:
    """Encoding one picture and one caption, as the runtime does before training."""
    of = family(program.base.family)

    modules = bare(program, [of.VAE, *of.TEXT_ENCODERS], "fp32")

    def make() -> Callable[[], None]:
        materialize(*modules.values())
        width, height = largest_bucket(program.data)
        pixels = torch.empty(1, 3, height, width)
        tokens = of.example(program.base.architecture, 1, width, height, True)

        def step() -> None:
            with torch.no_grad():
                of.encode_picture(modules, pixels)
                of.encode_text(modules, tokens)

        return step

    return trace(make, steps=1, device=program.compute.device, capability=capability)


def encoded_bytes(program: plan.Program) -> int:
    """What the cache of latents and text embeddings takes on disk, from the shapes alone; no file headers."""
    of = family(program.base.family)
    modules = bare(program, [of.VAE, *of.TEXT_ENCODERS], "fp32")
    flips = 2 if program.data.flip else 1
    pictures = {(item.sha256, item.bucket) for item in program.data.items}
    counts = Counter(bucket for _, bucket in pictures)
    if not counts:  # planned without the data at hand
        counts[largest_bucket(program.data)] = program.data.expected
    total = 0
    with torch.device("meta"), torch.no_grad():
        for (width, height), count in counts.items():
            latents = of.encode_picture(modules, torch.empty(1, 3, height, width))
            total += count * flips * _bytes(latents)
        if not set(of.TEXT_ENCODERS) & set(program.adapter.targets):
            example = of.example(program.base.architecture, 1, GRID, GRID, True)
            captions = len({item.caption for item in program.data.items}) or program.data.expected
            dropped = 1 if program.data.caption_dropout else 0
            total += (captions + dropped) * _bytes(of.encode_text(modules, example))
    return total


def _bytes(tensors: Batch) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def bare(program: plan.Program, components: list[str], dtype: plan.Dtype) -> Modules:
    """Components on the meta device in a dtype."""
    of = family(program.base.family)
    with torch.device("meta"), default_dtype(DTYPES[dtype]):
        return {name: of.build(program.base.architecture, name).requires_grad_(False) for name in components}


def largest_bucket(data: plan.Images) -> tuple[int, int]:
    """The bucket with the most pixels: the one that sets the peak."""
    buckets = {item.bucket for item in data.items} or {(data.resolution, data.resolution)}
    return max(buckets, key=lambda bucket: (bucket[0] * bucket[1], bucket))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New floating-point tensors have this dtype inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
