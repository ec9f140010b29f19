"""The train step, written once: the runtime runs it on real tensors, `lorac.estimate` on fake ones.

- No autocast: the base and the adapter compute in the plan's dtype; float32 masters of the adapter are what is trained.
- Accumulation is exact: each sample's loss is divided by the samples of the whole step, whatever the micro-batch.
- fp16 gradients are scaled up before they are summed in float32 (Micikevicius et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import chain, repeat
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from runtime import adapters, average, compiled, offload, plan, processes, sharding
from runtime.adapters import adapted, dropout, noise, whole
from runtime.attention import slice_blocks
from runtime.dtypes import DTYPES
from runtime.errors import PlanError, Problem
from runtime.families.protocol import Batch, Family, Modules
from runtime.optimizers import build_optimizer, paging
from runtime.quantization import quantise

FP16_SCALE = 2.0**10
"""Static loss scale: an adapter's gradients at this scale stay inside fp16's range (max 65504)."""


@attrs.define
class Trainee:
    """What one step changes. `weights` compute; `masters` (float32, the same tensors where those are) learn.

    `ema` is a moving average of the masters, where the plan has one.
    """

    family: Family
    modules: Modules
    program: plan.Program
    weights: dict[str, nn.Parameter]
    masters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    drawn: list[dropout.Drawn]
    stream: offload.Stream | None
    ema: average.Ema | None
    whole: dict[str, whole.Whole]

    def weigh(self, weight: float) -> None:
        """Set how strongly what is trained acts: 1 as trained, 0 as the base."""
        weigh(self.modules, self.program.adapter, self.whole.values(), weight)


def weigh(modules: Modules, adapter: plan.Adapter, wholes: Iterable[whole.Whole], weight: float) -> None:
    """Set how strongly an adapter, and what is trained whole beside it, act: 1 as trained, 0 as the base."""
    for component in plan.trained(adapter):
        adapted.weigh(modules[component], weight)
    for one in wholes:
        one.weigh(weight)


def attach(modules: Modules, program: plan.Program) -> dict[str, int]:
    """Freeze the base and put the adapter on, in place. Module counts by component. Works on meta tensors."""
    for module in modules.values():
        module.requires_grad_(False)
    return {
        component: len(adapters.attach(modules[component], pattern, program.adapter))
        for component, pattern in program.adapter.targets.items()
    }


def pack(family: Family, modules: Modules, compute: plan.Compute) -> None:
    """Hold the linear layers of the blocks in fewer bits, as the plan says. In place; meta tensors too.

    What lies around the blocks (embeddings, the first and last layers) keeps its dtype, as in QLoRA.
    """
    if compute.quantization == "none":
        return
    for block in family.blocks(modules).values():
        quantise(block, compute.quantization, DTYPES[compute.dtype])


def lay(
    family: Family, modules: Modules, compute: plan.Compute, device: torch.device
) -> offload.Stream | None:
    """Lay the forward pass on the device: slice attention, fetch, recompute and split blocks, as the plan says."""
    blocks = family.blocks(modules)
    away = plan.blocks_away(compute)
    problems = [
        Problem(f"compute.{field}", f"no block is called {name}")
        for field, names in (
            ("checkpointed", compute.checkpointed),
            ("offloaded", away),
            ("sharded", compute.sharded),
        )
        for name in names
        if name not in blocks
    ]
    if problems:
        raise PlanError(problems)
    if compute.attention_chunks > 1:
        slice_blocks(blocks.values(), compute.attention_chunks)
    # In the order of the forward pass, whatever the plan's: the next one is fetched ahead.
    streamed = {name: block for name, block in blocks.items() if name in away}
    for component in dict.fromkeys(name.partition(".")[0] for name in streamed):
        offload.move_the_rest(modules[component], streamed.values(), device)
    stream = offload.stream_blocks(streamed, compute.checkpointed, device, ahead=compute.device == "cuda")
    recompute(blocks[name] for name in compute.checkpointed)
    sharding.split(modules, {name: blocks[name] for name in compute.sharded}, device)
    return stream


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Have these blocks recompute their activations in the backward pass (Chen et al. 2016)."""
    for block in blocks:
        forward = block.forward

        def again(*args: Any, _forward: Callable[..., Any] = forward, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return _forward(*args, **kwargs)
            # Nothing in a block draws from a global generator, so there is no state to keep.
            return checkpoint(_forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        block.forward = again


def trainee(
    family: Family, modules: Modules, program: plan.Program, device: torch.device | None = None
) -> Trainee:
    """Lay the step on the device (None: the plan's), and collect what is trained, its masters, its optimizer.

    The adapter is on and has its first values.
    """
    weights = {
        f"{component}.{name}": parameter
        for component in plan.trained(program.adapter)
        for name, parameter in adapted.parameters(modules[component]).items()
    }
    wholes = whole.put_on(modules, program.adapter)
    weights |= {name: one.weight for name, one in wholes.items()}
    for parameter in weights.values():
        parameter.requires_grad_(True)
    if program.compute.compiled:  # before `lay`: what is recomputed is compiled inside its checkpoint
        compiled.compile_blocks(family.blocks(modules).values(), program.train.micro_batch)
    stream = lay(family, modules, program.compute, device or torch.device(program.compute.device))
    masters = {
        name: weight if weight.dtype is torch.float32 else nn.Parameter(weight.detach().float())
        for name, weight in weights.items()
    }
    for component in plan.trained(program.adapter):
        modules[component].train()
    dropouts = [d for component in program.adapter.targets for d in adapted.drawn(modules[component])]
    if isinstance(program.data, plan.Texts):
        for one in dropouts:
            if isinstance(one, dropout.SampleDropout):
                one.length = program.data.length
    return Trainee(
        family=family,
        modules=modules,
        program=program,
        weights=weights,
        masters=masters,
        optimizer=optimizer(family, masters, program),
        drawn=[*dropouts, *_noise(family, modules, program)],
        stream=stream,
        ema=average.ema_of(masters, program.train.ema),
        whole=wholes,
    )


def optimizer(
    family: Family, masters: dict[str, nn.Parameter], program: plan.Program
) -> torch.optim.Optimizer:
    """The plan's optimizer over the masters, before its first step."""
    rates = {name: _rate(name, family, program) for name in masters}
    made = build_optimizer(program.train.optimizer, masters, rates)
    if program.compute.paged_optimizer:
        paging.page(made)
    return made


def _noise(family: Family, modules: Modules, program: plan.Program) -> list[noise.EmbeddingNoise]:
    alpha, data = program.train.objective.neftune_alpha, program.data
    if not alpha or not isinstance(data, plan.Texts):
        return []
    return [noise.put_on(modules[family.BACKBONE].get_input_embeddings(), alpha, data.length)]


def _rate(name: str, family: Family, program: plan.Program) -> float:
    train, part = program.train, name.rpartition(".")[2]
    of_words = {plan.token_of(word): word.learning_rate for word in program.adapter.words}
    if part in of_words:
        return of_words[part]
    is_text = name.split(".", 1)[0] in family.TEXT_ENCODERS
    rate = train.text_encoder_learning_rate if is_text else train.learning_rate
    return rate * train.lora_plus_ratio if part == "B" else rate


def gradients(
    of: Trainee,
    batches: Iterable[tuple[Batch, Sequence[int]]],
    total: int,
    spare: Iterable[tuple[Batch, Sequence[int]]] = (),
) -> tuple[Tensor, Tensor]:
    """Forward and backward over a step's micro-batches of `total` samples, clipped.

    With several processes `batches` are this one's share, and `total` is the whole step's; `spare` are gone through
    and count nothing (`runtime.sharding`). Each batch comes with one key a sample, for its dropout and noise. Returns
    the mean loss and the norm of the gradient before clipping, both scalars on the device. Where memory runs out in
    one process, torch.OutOfMemoryError is raised in all; not where blocks are split, as the others wait for that one.
    """
    program, masters = of.program, of.masters.values()
    with nullcontext() if program.compute.sharded else processes.together(torch.OutOfMemoryError):
        loss = accumulate(of, batches, total, spare)
        flat = processes.flat_gradients(masters, loss) if program.train.processes > 1 else None
    if flat is not None:
        processes.add_up(flat)
        loss = flat[-1]
    return loss, nn.utils.clip_grad_norm_(masters, program.train.max_grad_norm or float("inf"))


def accumulate(
    of: Trainee,
    batches: Iterable[tuple[Batch, Sequence[int]]],
    total: int,
    spare: Iterable[tuple[Batch, Sequence[int]]] = (),
) -> Tensor:
    """Sum the gradients of these micro-batches in the masters. Their part of the step's mean loss."""
    program = of.program
    scale = FP16_SCALE if program.compute.dtype == "fp16" else 1.0
    losses = []
    for (batch, keys), among in chain(zip(batches, repeat(total)), zip(spare, repeat(math.inf))):
        dropout.aim(of.drawn, keys, batch)
        loss = of.family.loss(of.modules, batch, program.base, program.train.objective).sum() / among
        (loss * scale).backward()
        losses.append(loss.detach())
        for name, weight in of.weights.items():
            master = of.masters[name]
            if weight is not master and weight.grad is not None:
                grad = weight.grad.float().div_(scale)
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                weight.grad = None
    if of.stream is not None:
        of.stream.rest()
    for name, weight in of.weights.items():
        if scale != 1 and weight is of.masters[name] and weight.grad is not None:
            weight.grad.div_(scale)
    if not losses:  # a short step may have less micro-batches than there are processes
        return torch.zeros((), device=next(iter(of.masters.values())).device)
    return torch.stack(losses).sum()


def update(of: Trainee, factor: float) -> None:
    """Move the masters, at `factor` times their learning rates, and copy them to the weights that compute."""
    for group in of.optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    of.optimizer.step()
    of.optimizer.zero_grad(set_to_none=True)
    average.compute_with(of)
    if of.ema is not None:
        average.follow(of.ema, of.masters)
