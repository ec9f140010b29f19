"""What blocks keep for their backward pass, eager and compiled, and into how many graphs dropout breaks them.

`aot_eager_decomp_partition` takes a block apart and divides it into forward and backward as inductor does, and makes no
code: what is kept is the same, and no compiler is needed. Blocks are of SmolLM2's and SD 1.5's sizes, their weights
random; bytes are of storages that are neither weights nor the block's inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from runtime import adapters, plan
from runtime.adapters import adapted
from runtime.adapters.dropout import aim
from tests.bench.compiled.ways import Figures, difference

BACKEND = "aot_eager_decomp_partition"
RANK = 16
ROWS, LENGTH = 2, 256
SIDE = 32
STEPS = 3


@attrs.frozen(kw_only=True)
class Block:
    """A block with LoRA in its linear layers, and what it is called with."""

    name: str
    module: nn.Module
    given: tuple[Tensor, ...]
    named: dict[str, Any]


def blocks(dtype: torch.dtype, dropout: float = 0.0) -> list[Block]:
    """One of each kind that repeats in SmolLM2-135M and in SD 1.5's UNet."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3, head_dim=64
    )
    config._attn_implementation = "sdpa"
    turned = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=dtype), torch.arange(LENGTH)[None])
    made = [
        Block(
            name="SmolLM2's layer",
            module=LlamaDecoderLayer(config, 0),
            given=(torch.randn(ROWS, LENGTH, 576),),
            named={"position_embeddings": turned},
        ),
        Block(
            name="SD 1.5's transformer block",
            module=BasicTransformerBlock(320, 8, 40, cross_attention_dim=768),
            given=(torch.randn(1, SIDE**2, 320),),
            named={"encoder_hidden_states": torch.randn(1, 77, 768).to(dtype)},
        ),
        Block(
            name="SD 1.5's residual block",
            module=ResnetBlock2D(in_channels=320, out_channels=320, temb_channels=1280),
            given=(torch.randn(1, 320, SIDE, SIDE), torch.randn(1, 1280)),
            named={},
        ),
    ]
    for one in made:
        with_lora(one.module.to(dtype), dropout)
    return [
        attrs.evolve(one, given=tuple(tensor.to(dtype).requires_grad_() for tensor in one.given))
        for one in made
    ]


def with_lora(module: nn.Module, dropout: float) -> None:
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    pattern = "|".join(map(re.escape, names))
    of = plan.Adapter(
        method="lora",
        rank=RANK,
        alpha=float(RANK),
        dropout=dropout,
        init="kaiming",
        targets={"model": pattern},
        modules={"model": len(names)},
    )
    module.requires_grad_(False)
    adapters.attach(module, pattern, of)
    for part in adapted.parameters(module).values():
        nn.init.normal_(part, std=0.02)
        part.requires_grad_(True)
    module.train()


def kept(of: Block, forward: Callable[..., Any]) -> tuple[int, dict[str, Tensor]]:
    """Bytes that a forward pass keeps, and the gradients."""
    weights = [*of.module.parameters(), *of.module.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in (*weights, *of.given)}
    seen: dict[int, Tensor] = {}  # tensors, not sizes: what is let go could lend its place to another

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward(*of.given, **of.named)
    parts = adapted.parameters(of.module)
    found = torch.autograd.grad(out.float().square().mean(), list(parts.values()))
    return sum(one.untyped_storage().nbytes() for one in seen.values()), dict(zip(parts, found, strict=True))


def figures() -> list[Figures]:
    """Of each block in fp32 and bf16."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for block in blocks(dtype):
            torch._dynamo.reset()
            eager, gradients = kept(block, block.module.forward)
            compiled, others = kept(
                block, torch.compile(block.module.forward, backend=BACKEND, dynamic=False)
            )
            found.append(
                {
                    "block": block.name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "eager": eager,
                    "compiled": compiled,
                    "ratio": compiled / eager,
                    "difference": difference(gradients, others),
                }
            )
    return found


def broken(dropout: float) -> Figures:
    """Graphs and breaks of SmolLM2's layer after three steps, each of other samples."""
    from torch._dynamo.utils import counters

    block = blocks(torch.float32, dropout)[0]
    torch._dynamo.reset()
    counters.clear()
    forward = torch.compile(block.module.forward, backend="eager", dynamic=False)
    for step in range(STEPS):
        aim(adapted.drawn(block.module), range(step * ROWS, (step + 1) * ROWS), {})
        forward(*block.given, **block.named)
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    return {"dropout": dropout, "graphs": graphs, "breaks": breaks}
