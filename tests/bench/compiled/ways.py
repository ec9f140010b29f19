"""What of a step torch compiles, and what is measured of it in one process."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from runtime import average
from runtime import step as train_step
from tests.bench.clock import memory
from tests.bench.profile.step import Parts

Figures = dict[str, Any]


@attrs.frozen(kw_only=True)
class Way:
    """`region` is each block by itself ("blocks"), or the backbone as one graph ("model"). `recomputed` of the blocks,
    every n-th, are checkpointed; 0 is none."""

    spec: str
    dtype: str
    region: str
    recomputed: int = 0

    @property
    def name(self) -> str:
        recomputed = f", 1 of {self.recomputed} blocks recomputed" if self.recomputed else ""
        return f"{self.spec}, {self.dtype}, {self.region}{recomputed}"


@attrs.frozen(kw_only=True)
class Switch:
    """The same modules, eager or compiled."""

    modules: list[nn.Module]
    eager: list[Callable[..., Any]]
    compiled: list[Callable[..., Any]]

    def to(self, compiled: bool) -> None:
        for module, forward in zip(self.modules, self.compiled if compiled else self.eager, strict=True):
            module.forward = forward


def switch(of: train_step.Trainee, way: Way) -> Switch:
    """Compiled with shapes as they are (`dynamic=False`): what is compiled for one shape never depends on what other
    shapes were seen before it. What is recomputed is compiled inside its checkpoint."""
    from torch._dynamo import config

    config.recompile_limit = 64
    config.fail_on_recompile_limit_hit = True
    blocks = of.family.blocks(of.modules)
    if way.region == "model":
        backbone = of.modules[of.family.BACKBONE]
        chosen = [backbone.base_model if way.spec == "chat_quickstart" else backbone]
    else:
        chosen = list(blocks.values())
    raw = [module.forward for module in chosen]
    recomputed = chosen[:: way.recomputed] if way.recomputed else []
    laid = []
    for forwards in (raw, [torch.compile(forward, dynamic=False) for forward in raw]):
        for module, forward in zip(chosen, forwards, strict=True):
            module.forward = forward
        train_step.recompute(recomputed)
        laid.append([module.forward for module in chosen])
    return Switch(modules=chosen, eager=laid[0], compiled=laid[1])


@attrs.define
class Side:
    """A run's own weights and moments, put in place for its steps."""

    weights: dict[str, Tensor]
    moments: dict[str, Any]

    def take(self, of: train_step.Trainee) -> None:
        with torch.no_grad():
            for name, master in of.masters.items():
                master.copy_(self.weights[name])
        of.optimizer.load_state_dict(self.moments)
        average.compute_with(of)

    def keep(self, of: train_step.Trainee) -> None:
        self.weights = {name: master.detach().clone() for name, master in of.masters.items()}
        self.moments = of.optimizer.state_dict()


def side(of: train_step.Trainee) -> Side:
    made = Side({}, {})
    made.keep(of)
    return made


def first(of: Parts, ways: Switch) -> Figures:
    """What the first step takes beyond a later one, in wall and CPU seconds (compilers that were started counted), its
    peak of memory, and by how much the gradients are others than eager ones."""
    batches, total = of.read(0)
    ways.to(compiled=False)
    of.learn(batches, total)  # a first step's own costs are not the compiler's
    of.trainee.optimizer.zero_grad(set_to_none=True)
    later = timed(lambda: of.learn(batches, total))
    eager = grads(of)
    ways.to(compiled=True)
    before = reset_peak()
    began = timed(lambda: of.learn(batches, total))
    peak = memory("VmHWM") - before
    compiled = grads(of)
    ways.to(compiled=False)
    return {
        "compile_wall": began["wall"] - later["wall"],
        "compile_cpu": began["cpu"] + began["children"] - later["cpu"],
        "compile_peak": peak,
        "difference": difference(eager, compiled),
        "gradients": digest(compiled),
        "eager_gradients": digest(eager),
    }


def in_turn(of: Parts, ways: Switch, steps: int) -> Figures:
    """`steps` steps of an eager and of a compiled run, one of each in turn: seconds, losses, peaks."""
    trainee = of.trainee
    sides = {False: side(trainee), True: side(trainee)}
    taken: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    losses: dict[bool, list[float]] = {False: [], True: []}
    peaks = {False: 0, True: 0}
    for number in range(steps):
        batches, total = of.read(number)
        for compiled in (False, True) if number % 2 else (True, False):
            sides[compiled].take(trainee)
            ways.to(compiled)
            before = reset_peak()
            found: list[Tensor] = []
            taken[compiled].append(
                timed(lambda: found.extend(train_step.gradients(trainee, batches, total)))  # noqa: B023
            )
            peaks[compiled] = max(peaks[compiled], memory("VmHWM") - before)
            losses[compiled].append(found[0].item())
            of.move()
            sides[compiled].keep(trainee)
    said: Figures = {"steps": steps}
    for compiled, name in ((False, "eager"), (True, "compiled")):
        spent = [one["cpu"] for one in taken[compiled]]
        said[name] = {
            "cpu_min": min(spent),
            "cpu_median": statistics.median(spent),
            "wall_median": statistics.median(one["wall"] for one in taken[compiled]),
            "peak": peaks[compiled],
            "losses": losses[compiled],
            "weights": digest(sides[compiled].weights),
        }
    said["ratio_min"] = said["compiled"]["cpu_min"] / said["eager"]["cpu_min"]
    said["ratio_median"] = said["compiled"]["cpu_median"] / said["eager"]["cpu_median"]
    said["losses_differ_by"] = max(abs(a - b) / abs(a) for a, b in zip(*losses.values(), strict=True))
    return said


def timed(part: Callable[[], object]) -> dict[str, float]:
    """Seconds: `wall`, `cpu` of this process, `children` of those that it started and that ended."""
    began, times = time.perf_counter(), os.times()
    part()
    wall, now = time.perf_counter() - began, os.times()
    cpu = now.user + now.system - times.user - times.system
    children = now.children_user + now.children_system - times.children_user - times.children_system
    return {"wall": wall, "cpu": cpu, "children": children}


def reset_peak() -> int:
    """Have the peak of memory count from here; what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    return memory("VmRSS")


def grads(of: Parts) -> dict[str, Tensor]:
    """The masters' gradients, taken away from them."""
    found = {name: one.grad for name, one in of.trainee.masters.items() if one.grad is not None}
    of.trainee.optimizer.zero_grad(set_to_none=True)
    return found


def difference(eager: dict[str, Tensor], compiled: dict[str, Tensor]) -> float:
    """The largest difference of any gradient by the largest gradient."""
    apart = max((eager[name] - compiled[name]).abs().max().item() for name in eager)
    return apart / max(one.abs().max().item() for one in eager.values())


def digest(tensors: dict[str, Tensor]) -> str:
    """Of their bytes."""
    made = hashlib.sha256()
    for name in sorted(tensors):
        made.update(tensors[name].numpy().tobytes())
    return made.hexdigest()[:16]
