"""What a trace says of each block that may be recomputed or offloaded: bytes that it saves and holds, seconds that it
takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import attrs

from lorac.estimate import phases, roofline
from lorac.estimate.cards import Card
from lorac.estimate.record import Call, Trace
from runtime import plan
from runtime.families import family
from runtime.families.protocol import Modules


@attrs.frozen(kw_only=True)
class Block:
    """A block that may be recomputed or offloaded: bytes that it saves for its backward and of its frozen weights,
    and how long its forward takes."""

    name: str
    saved: int
    seconds: float
    weights: int = 0


def spoken(program: plan.Program) -> dict[str, list[str]]:
    """The program's blocks in the order of the forward pass, each with what the tracer may call it."""
    of = family(program.base.family)
    components = dict.fromkeys([of.BACKBONE, *plan.trained(program.adapter)])
    modules = phases.bare(program, list(components), program.compute.dtype)
    return {name: list(_called(modules, name)) for name in of.blocks(modules)}


def found(spoken: dict[str, list[str]], trace: Trace, card: Card) -> tuple[Block, ...]:
    """What each block that may be recomputed saves, and its forward's seconds, in the order of the forward pass."""
    names = {called: name for name, several in spoken.items() for called in several}
    saved: dict[str, int] = defaultdict(int)
    weights: dict[str, int] = defaultdict(int)
    calls: dict[str, list[Call]] = defaultdict(list)
    for block in trace.peak.live:
        owner = _owner(block.module, names)
        if owner and block.kind == "saved activations":
            saved[owner] += block.bytes
        elif owner and block.kind == "base weights":
            weights[owner] += block.bytes
    for call in trace.calls:
        owner = _owner(call.module, names)
        if owner and call.during == "forward":
            calls[owner].append(call)
    return tuple(
        Block(
            name=name,
            saved=saved[name],
            seconds=roofline.seconds(calls[name], card),
            weights=weights[name],
        )
        for name in spoken
    )


def calls_of(spoken: dict[str, list[str]], trace: Trace) -> dict[str, list[Call]]:
    """The calls of each block's passes, in the order of the forward pass."""
    names = {called: name for name, several in spoken.items() for called in several}
    calls: dict[str, list[Call]] = {name: [] for name in spoken}
    for call in trace.calls:
        owner = _owner(call.module, names)
        if owner and call.during != "optimizer":
            calls[owner].append(call)
    return calls


def _called(modules: Modules, block: str) -> Iterator[str]:
    """What the tracer may call a block: its path below the class of whichever module around it is called first.

    A language model's loss calls the decoder below the model that has the head.
    """
    component, _, path = block.partition(".")
    steps = path.split(".")
    for depth in range(len(steps)):
        outer = modules[component].get_submodule(".".join(steps[:depth]))
        yield f"{type(outer).__name__}.{'.'.join(steps[depth:])}"


def _owner(module: str, names: dict[str, str]) -> str | None:
    """The block that a module path lies in."""
    while module:
        if module in names:
            return names[module]
        module = module.rpartition(".")[0]
    return None
