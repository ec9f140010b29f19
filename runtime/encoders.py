"""The components that only encode and decode: how they are held, and how they come to the card and leave it.

An encoder that is too large for a card beside the denoiser (T5-XXL has 4.8 billion weights) waits in the computer's
memory: its blocks are on the card one after the other while it encodes, two at most, what lies around them is there
whole. That costs a pass over its weights for each caption, once, and changes no number.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from runtime import offload, plan
from runtime.families.protocol import Family


def dtype(of: Family, component: str) -> plan.Dtype:
    """What a component that is not trained is held in."""
    return of.STREAMED.get(component, "fp32")


def streams(of: Family, component: str, compute: plan.Compute) -> bool:
    """Whether a component waits in the computer's memory even while it encodes. A CPU has no other."""
    return component in of.STREAMED and component in compute.offloaded and compute.device == "cuda"


def stream(of: Family, component: str, module: nn.Module, device: torch.device) -> offload.Stream:
    """Freeze an encoder and have it fetch its blocks to the device, one ahead, and let them go at each pass' end. In
    place."""
    module.requires_grad_(False)
    blocks = of.blocks({component: module})
    offload.move_the_rest(module, blocks.values(), device)
    made = offload.stream_blocks(blocks, (), device, ahead=True)
    assert made is not None, f"{of.NAME} says that {component} streams, and names no blocks of it"
    module.register_forward_hook(lambda *_: made.rest())
    return made


def move(
    of: Family, component: str, module: nn.Module, compute: plan.Compute, device: torch.device | str
) -> None:
    """Take an encoder to the device, or away from it: all of it, or what lies around blocks that it fetches."""
    waiting: Iterable[nn.Module] = ()
    if streams(of, component, compute):
        waiting = of.blocks({component: module}).values()
    offload.move_the_rest(module, waiting, torch.device(device))
