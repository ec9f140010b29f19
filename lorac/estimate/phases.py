"""The phases of our own run, each as a step for the tracer: the train step is the very function the runtime runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from collections.abc import Iterator

import torch

from lorac.estimate.record import Trace
from lorac.estimate.trace import label, materialize, trace
from runtime import plan
from runtime import step as train_step
from runtime.families import family
from runtime.families.protocol import Modules

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STEPS = 2
"""The optimizer's state comes after the first step, so the second holds the peak."""


def training(program: plan.Program, capability: tuple[int, int]) -> Trace:
    """Two optimizer steps, each of two micro-batches where the plan accumulates."""
    of = family(program.base.family)
    trained = list(program.adapter.targets)

    modules = bare(program, [of.DENOISER, *(c for c in trained if c != of.DENOISER)], program.compute.dtype)
    train_step.attach(
        modules, program
    )  # outside the tracer: peft moves what it makes to the base's device, meta

    def make() -> Callable[[], None]:
        materialize(*modules.values())
        trainee = train_step.trainee(of, modules, program)
        if program.compute.dtype != "fp32":
            label("master weights", trainee.masters.values())
        width, height = largest_bucket(program.data)
        count = min(program.train.accumulation, 2)
        micro = program.train.micro_batch
        tokens = any(component in of.TEXT_ENCODERS for component in trained)
        batch = of.example(program.base.architecture, micro, width, height, tokens)
        label("inputs", batch.values())

        def step() -> None:
            train_step.gradients(trainee, [(batch, range(micro))] * count, micro * count)
            train_step.update(trainee, 1.0)

        return step

    return trace(make, steps=STEPS, device=program.compute.device, capability=capability)


def caching(program: plan.Program, capability: tuple[int, int]) -> Trace:
    """Encoding one picture and one caption, as the runtime does before training."""
    of = family(program.base.family)

    modules = bare(program, [of.VAE, *of.TEXT_ENCODERS], "fp32")

    def make() -> Callable[[], None]:
        materialize(*modules.values())
        width, height = largest_bucket(program.data)
        pixels = torch.empty(1, 3, height, width)
        tokens = {k: v for k, v in of.example(program.base.architecture, 1, width, height, True).items()}

        def step() -> None:
            with torch.no_grad():
                of.encode_picture(modules, pixels)
                of.encode_text(modules, tokens)

        return step

    return trace(make, steps=1, device=program.compute.device, capability=capability)


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
