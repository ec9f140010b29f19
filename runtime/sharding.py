"""Blocks whose frozen weights are split among the run's processes: FSDP2, torch's `fully_shard` (Zhao et al. 2023,
arXiv:2304.11277).

- A block is gathered whole on each card while it computes, and again for its backward; the one that the backward comes
  to next is gathered meanwhile. Between, each process has its part, of each tensor's rows.
- What is trained is not split: every process has all of it, and gradients are summed as without (`processes`).
- All processes go through the same blocks in the same order, for each gathers from all. One that has no micro-batch
  left goes through another's and counts nothing (`processes.spare`).
- What several blocks share, buffers, and what lies around the blocks (embeddings, the first and last layers) is on
  every card.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import nn

from runtime import offload
from runtime.families.protocol import Modules

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

# Some blocks give a view. FSDP would lose sight of one that is written to in place: its weights would then be missing
# in the backward, which is an error.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)


def split(modules: Modules, blocks: Mapping[str, nn.Module], device: torch.device) -> None:
    """Split the frozen weights of these blocks, COMPONENT.PATH, and bring all of their components to the device.

    In place, block by block: the device never has more than what it keeps and one block. Needs a process group.
    """
    if not blocks:
        return
    from torch.distributed import group
    from torch.distributed.fsdp import fully_shard  # which a run of whole blocks, and a plan, goes without

    assert group.WORLD is not None
    mesh = mesh_of(group.WORLD, device.type)
    for component in dict.fromkeys(name.partition(".")[0] for name in blocks):
        root = modules[component]
        inside = {
            name.removeprefix(f"{component}."): block
            for name, block in blocks.items()
            if name.startswith(f"{component}.")
        }
        stay = whole(root, inside)
        offload.move(root, {id(one) for one in root.parameters() if one not in stay}, device)
        for block in inside.values():
            fully_shard(block, mesh=mesh, ignored_params=stay)
        # Nothing of its own is split: around the blocks, it tells them their order.
        fully_shard(around(root, inside), mesh=mesh, ignored_params=stay)


@cache
def mesh_of(processes: ProcessGroup, device: str) -> DeviceMesh:
    """All processes in a row. The memory trace has it made beforehand, as it is made of real tensors."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (processes.size(),))


def whole(root: nn.Module, paths: Collection[str]) -> set[nn.Parameter]:
    """What every process has all of: what is trained, and what belongs to no block, or to several."""
    owners: dict[nn.Parameter, set[str]] = {}
    for name, parameter in root.named_parameters(remove_duplicate=False):
        owner = next((path for path in paths if name.startswith(f"{path}.")), "")
        owners.setdefault(parameter, set()).add(owner)
    return {one for one, of in owners.items() if one.requires_grad or "" in of or len(of) > 1}


def around(root: nn.Module, paths: Collection[str]) -> nn.Module:
    """The innermost module around these that is itself called: a loss may go past the outer ones."""
    names = zip(*(path.split(".")[:-1] for path in paths), strict=False)
    steps = [same[0] for same in takewhile(lambda alike: len({*alike}) == 1, names)]
    found = root.get_submodule(".".join(steps))
    while isinstance(found, nn.ModuleList | nn.ModuleDict):
        steps = steps[:-1]
        found = root.get_submodule(".".join(steps))
    return found
