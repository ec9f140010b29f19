"""A plan's base as the tracer builds it: its components without weights, each in the dtype that the runtime holds it
in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runtime import encoders, plan
from runtime.dtypes import DTYPES
from runtime.families import family
from runtime.families.protocol import Family, Modules


def components(of: Family) -> list[str]:
    """Every component, in the order in which the runtime loads them."""
    return list(of.COMPONENTS)


def frozen(program: plan.Program) -> list[str]:
    """The components that only encode and decode."""
    of = family(program.base.family)
    return [name for name in of.COMPONENTS if name not in (of.BACKBONE, *plan.trained(program.adapter))]


def encoders_of(program: plan.Program, components: list[str]) -> Modules:
    """Components that are not trained, on the meta device, each in what it is held in."""
    of = family(program.base.family)
    return {name: bare(program, [name], encoders.dtype(of, name))[name] for name in components}


def bare(program: plan.Program, components: list[str], dtype: plan.Dtype) -> Modules:
    """Components on the meta device in a dtype."""
    of = family(program.base.family)
    with torch.device("meta"), default_dtype(DTYPES[dtype]):
        return {name: of.build(program.base.architecture, name).requires_grad_(False) for name in components}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New floating-point tensors have this dtype inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def encodes_text(of: Family, program: plan.Program) -> bool:
    """Whether captions are encoded, once: there are encoders, and none of them is trained."""
    return bool(of.TEXT_ENCODERS) and not set(of.TEXT_ENCODERS) & set(plan.trained(program.adapter))
