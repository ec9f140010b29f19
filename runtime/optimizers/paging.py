"""An optimizer whose state waits in the computer's memory between steps, as in bitsandbytes' paged ones.

All of it comes to the device for a step, when no activation is there, and leaves it afterwards: the moment of most
memory, in the backward pass, is without it. bitsandbytes' own needs CUDA's managed memory, which neither a CPU nor a
trace has; this is torch alone, works with every optimizer, and leaves its arithmetic as it is.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


def page(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer's state wait away from its parameters' device. In place."""
    hosts: dict[tuple[int, str], Tensor] = {}  # by the parameter's identity and the state's name

    def fetch(*_: Any) -> None:
        for parameter, name, value in state_tensors(optimizer):
            hosts[id(parameter), name] = value
            # A copy on a CPU too, where `to` would make none: what is traced there is what a card takes.
            here = torch.empty_like(value, device=parameter.device)
            optimizer.state[parameter][name] = here.copy_(value)

    def put_away(*_: Any) -> None:
        for parameter, name, value in state_tensors(optimizer):
            host = hosts.pop((id(parameter), name), None)
            if host is None or value.is_cuda > host.is_pinned():  # new, or from a checkpoint
                host = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            optimizer.state[parameter][name] = host.copy_(value)

    optimizer.register_step_pre_hook(fetch)
    optimizer.register_step_post_hook(put_away)


def state_tensors(optimizer: torch.optim.Optimizer) -> list[tuple[nn.Parameter, str, Tensor]]:
    """What is kept of each parameter, by name: all but single numbers, which stay where the optimizer wants them."""
    return [
        (cast(nn.Parameter, parameter), name, value)
        for parameter, state in optimizer.state.items()
        for name, value in state.items()
        if isinstance(value, Tensor) and value.dim() > 0
    ]
