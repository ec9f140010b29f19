"""Measure what torch's compiler takes and what it saves of blocks' time: for `lorac calibrate`, on a CPU.

The blocks are SmolLM2-135M's, with LoRA in their linear layers, in bf16 over packed sequences. The first one's two
graphs, without and with the gradient of its input, are compiled one after the other in an empty folder: what the first
takes more is what each process takes once. What is saved is of some blocks one after the other, whose activations no
cache holds.
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

ROWS, LENGTH, RANK, BLOCKS = 4, 256, 16, 6
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
        blocks = _blocks()
        hidden, named = _given()
        calls = measure(lambda: _step(blocks, hidden, named), steps=1).calls
        eager = [block.forward for block in blocks]
        compiled.compile_blocks(blocks, ROWS)
        learned = hidden.clone().requires_grad_()
        first, second = (_seconds(_step(blocks[:1], given, named)) for given in (hidden, learned))
        taken = []
        for _ in range(rounds + 1):
            fast = _seconds(_step(blocks, hidden, named))
            taken.append((_seconds(_step(blocks, hidden, named, eager)), fast))
    before, after = (statistics.median(times) for times in zip(*taken[1:], strict=True))
    return compiling(calls, card, (first, second - after / BLOCKS), before - after)


def compiling(calls: tuple[Call, ...], card: Card, compiled: tuple[float, float], saved: float) -> Compiling:
    """From the blocks' `calls`, the seconds that the first and the second graph took, and those that a step saves."""
    first, second = compiled
    between = roofline.seconds(fused.between(calls), card)
    return Compiling(
        start=max(0.0, first - second),
        call=max(0.0, second) * BLOCKS / len(calls),
        saved=max(0.0, saved / between),
    )


def _blocks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [_with_lora(LlamaDecoderLayer(_config(), at).to(torch.bfloat16)) for at in range(BLOCKS)]


def _given() -> tuple[Tensor, dict[str, Any]]:
    """What the first block is given, and what each is besides: places, and a mask as packed sequences have one."""
    hidden = torch.randn(ROWS, LENGTH, CONFIG["hidden_size"]).to(torch.bfloat16)
    turned = LlamaRotaryEmbedding(_config())(hidden, torch.arange(LENGTH)[None])
    packed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().expand(ROWS, 1, -1, -1)
    return hidden, {"attention_mask": packed, "position_embeddings": turned}


def _config() -> LlamaConfig:
    config = LlamaConfig(**CONFIG)
    config._attn_implementation = "sdpa"
    return config


def _step(
    blocks: list[nn.Module],
    hidden: Tensor,
    named: dict[str, Any],
    forwards: list[Callable[..., Tensor]] | None = None,
) -> Step:
    """Forward and backward through the blocks, or these `forwards` of theirs."""

    def run() -> None:
        out = hidden
        for forward in forwards or [block.forward for block in blocks]:
            out = forward(out, **named)
        out.float().square().mean().backward()
        for part in (hidden, *(part for block in blocks for part in block.parameters())):
            part.grad = None

    return run


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
