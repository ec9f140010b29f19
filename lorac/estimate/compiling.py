"""Measure what torch's compiler takes and what it leaves of a block's time: for `lorac calibrate`, on a CPU.

The block is one of SmolLM2-135M's, with LoRA in its linear layers, in bf16 over packed sequences. Its two graphs,
without and with the gradient of its input, are compiled one after the other in an empty folder: what the first takes
more is what each process takes once.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from lorac.estimate import fused, roofline
from lorac.estimate.cards import Card, Compiling
from lorac.estimate.record import Call
from lorac.estimate.trace import measure
from runtime import adapters, compiled, compiler, plan
from runtime.adapters import adapted

ROWS, LENGTH, RANK = 4, 256, 16
CONFIG: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
}
"""SmolLM2-135M's."""

Step = Callable[[], None]


def measured(card: Card, rounds: int) -> Compiling | None:
    """By `rounds` steps of each kind, the median counts; None where there is no C++ compiler.

    `card` has the figures that were measured so far, which say how long the eager calls are taken to take.
    """
    if not compiler.version():
        return None
    with tempfile.TemporaryDirectory(prefix="lorac-compiling-") as files, compiled.in_folder(Path(files)):
        eager, first, later = _steps()
        calls = measure(lambda: eager, steps=1).calls
        one, two = _seconds(first), _seconds(later)
        taken = [(_seconds(eager), _seconds(later)) for _ in range(rounds + 1)][1:]
    before, after = (statistics.median(times) for times in zip(*taken, strict=True))
    return compiling(calls, card, (one, two - after), before - after)


def compiling(calls: tuple[Call, ...], card: Card, compiled: tuple[float, float], saved: float) -> Compiling:
    """From the block's `calls`, the seconds that its first and its second graph took, and those that a step saves."""
    first, second = compiled
    between = roofline.seconds(fused.between(calls), card)
    return Compiling(
        start=max(0.0, first - second),
        call=max(0.0, second) / len(calls),
        left=min(1.0, max(0.0, 1 - saved / between)),
    )


def _steps() -> tuple[Step, Step, Step]:
    """The block's step eager, and compiled without and with the gradient of its input."""
    torch.manual_seed(0)
    config = LlamaConfig(**CONFIG)
    config._attn_implementation = "sdpa"
    block = _with_lora(LlamaDecoderLayer(config, 0).to(torch.bfloat16))
    hidden = torch.randn(ROWS, LENGTH, config.hidden_size).to(torch.bfloat16)
    turned = LlamaRotaryEmbedding(config)(hidden, torch.arange(LENGTH)[None])
    packed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().expand(ROWS, 1, -1, -1)
    eager = block.forward
    compiled.compile_blocks([block], ROWS)
    fast = block.forward

    def step(forward: Callable[..., Tensor], given: Tensor) -> Step:
        def run() -> None:
            out = forward(given, attention_mask=packed, position_embeddings=turned)
            out.float().square().mean().backward()
            for part in (given, *block.parameters()):
                part.grad = None

        return run

    learned = hidden.clone().requires_grad_()
    return step(eager, learned), step(fast, hidden), step(fast, learned)


def _with_lora(block: nn.Module) -> nn.Module:
    count = sum(isinstance(part, nn.Linear) for part in block.modules())
    of = plan.Adapter(
        method="lora",
        rank=RANK,
        alpha=float(RANK),
        dropout=0.0,
        init="kaiming",
        targets={"model": ".*_proj"},
        modules={"model": count},
    )
    block.requires_grad_(False)
    adapters.attach(block, ".*_proj", of)
    for part in adapted.parameters(block).values():
        nn.init.normal_(part, std=0.02)
        part.requires_grad_(True)
    return block.train()


def _seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
