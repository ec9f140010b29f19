"""Blocks whose frozen weights wait in the computer's memory and come to the device when they are needed.

- At most two such blocks are on a card: the one that computes, and the next one, which is fetched while it does, on a
  stream of its own. In the backward pass blocks come back in the reverse order. A CPU fetches nothing ahead.
- Only frozen tensors move. What is trained stays on the device, so the optimizer knows nothing of it.
- Autograd would keep a weight that it saved for the backward: such a weight is saved as a name, and fetched again.
  A block that is recomputed saves nothing in its first pass, and is fetched by its recomputation.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Place = tuple[dict[str, Any], str]
"""A module's table of parameters or buffers, and a name in it."""


@attrs.define(eq=False)
class Block:
    """One block: where its frozen tensors sit, and their copies in the computer's memory (pinned for a GPU)."""

    places: list[list[Place]]
    """One list a tensor: a tensor that modules share sits in several tables."""
    host: list[Tensor]


@attrs.frozen(eq=False)
class Saved:
    """A frozen tensor, or a view of one, as autograd is to remember it."""

    block: int
    tensor: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Stream:
    """Fetches blocks to the device, one ahead or none, and lets them go. `fetched` is told of each block's tensors.

    The memory trace is of fake CPU tensors: it fetches ahead as the card will.
    """

    def __init__(self, device: torch.device, ahead: bool) -> None:
        self.device = device
        self.ahead = ahead
        self.blocks: list[Block] = []
        self.fetched: Callable[[list[Tensor]], None] = lambda tensors: None
        self._here: dict[int, list[Tensor]] = {}
        self._ready: dict[int, torch.cuda.Event] = {}
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last = -1

    def add(self, block: nn.Module) -> int:
        """Take the block's frozen tensors to the computer's memory; the block's number."""
        places: dict[int, list[Place]] = {}
        tensors: dict[int, Tensor] = {}
        for table, name, tensor in tensors_of(block):
            if not tensor.requires_grad:
                places.setdefault(id(tensor), []).append((table, name))
                tensors[id(tensor)] = tensor
        host = [self._to_host(tensor.detach()) for tensor in tensors.values()]
        self.blocks.append(Block(places=list(places.values()), host=host))
        self._put(len(self.blocks) - 1, host)
        return len(self.blocks) - 1

    def use(self, number: int) -> list[Tensor]:
        """The block's tensors on the device, in place; the next one in this direction is on its way."""
        if number != self._last:
            ahead = number - 1 if number < self._last else number + 1
            for other in [one for one in self._here if one not in (number, ahead)]:
                self._let_go(other)
            self._fetch(number)
            if self.ahead and 0 <= ahead < len(self.blocks):
                self._fetch(ahead)
            self._last = number
        if number in self._ready:
            torch.cuda.current_stream(self.device).wait_event(self._ready.pop(number))
        return self._here[number]

    def rest(self) -> None:
        """Let every block go: the pass is over."""
        for number in list(self._here):
            self._let_go(number)
        self._last = -1

    def host_tensors(self) -> Iterable[Tensor]:
        """Every copy in the computer's memory."""
        return (tensor for block in self.blocks for tensor in block.host)

    def _to_host(self, tensor: Tensor) -> Tensor:
        there = tensor.to("cpu")
        return there.pin_memory() if self._side is not None else there

    def _fetch(self, number: int) -> None:
        if number in self._here:
            return
        host = self.blocks[number].host
        # Made on the main stream, so that its allocator orders their reuse; filled on the side stream.
        here = [torch.empty_like(tensor, device=self.device) for tensor in host]
        if self._side is None:
            for mine, other in zip(here, host, strict=True):
                mine.copy_(other)
        else:
            self._side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._side):
                for mine, other in zip(here, host, strict=True):
                    mine.copy_(other, non_blocking=True)
                self._ready[number] = torch.cuda.Event()
                self._ready[number].record(self._side)
        self.fetched(here)
        self._here[number] = here
        self._put(number, here)

    def _let_go(self, number: int) -> None:
        if number in self._ready:  # fetched and never used: the copy must end before its memory is used again
            torch.cuda.current_stream(self.device).wait_event(self._ready.pop(number))
        del self._here[number]
        self._put(number, self.blocks[number].host)

    def _put(self, number: int, tensors: list[Tensor]) -> None:
        for places, tensor in zip(self.blocks[number].places, tensors, strict=True):
            for table, name in places:
                table[name] = tensor


def stream_blocks(
    blocks: Mapping[str, nn.Module], recomputed: Container[str], device: torch.device, ahead: bool
) -> Stream | None:
    """Have these blocks (in the order of the forward pass) fetch their frozen weights. In place; None for none."""
    if not blocks:
        return None
    stream = Stream(device, ahead)
    for name, block in blocks.items():
        number, forward, saves = stream.add(block), block.forward, name not in recomputed

        def fetching(
            *args: Any,
            _number: int = number,
            _forward: Callable[..., Any] = forward,
            _saves: bool = saves,
            **kwargs: Any,
        ) -> Any:
            here = stream.use(_number)
            if not (_saves and torch.is_grad_enabled()):
                return _forward(*args, **kwargs)
            known = {tensor.untyped_storage()._cdata: index for index, tensor in enumerate(here)}
            with saved_tensors_hooks(_packing(_number, known), _unpacking(stream)):
                return _forward(*args, **kwargs)

        block.forward = fetching
    return stream


def move_the_rest(module: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Move everything of a module to the device but the frozen tensors of these blocks. In place."""
    move(module, {id(t) for block in blocks for _, _, t in tensors_of(block) if not t.requires_grad}, device)


def move(module: nn.Module, away: Container[int], device: torch.device) -> None:
    """Move everything of a module to the device but the tensors with these ids. In place."""
    for table, name, tensor in tensors_of(module):
        if id(tensor) in away or tensor.device == device:
            continue
        if isinstance(tensor, nn.Parameter):
            tensor.data = tensor.data.to(device)
        else:
            table[name] = tensor.to(device)


def tensors_of(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Every parameter and buffer in a module: the table it sits in, its name there, itself."""
    tables = [t for part in module.modules() for t in (part._parameters, part._buffers)]
    return [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]


def _packing(number: int, known: Mapping[int, int]) -> Callable[[Tensor], Tensor | Saved]:
    def pack(tensor: Tensor) -> Tensor | Saved:
        index = known.get(tensor.untyped_storage()._cdata)
        if index is None:
            return tensor
        size, stride = tuple(tensor.shape), tuple(tensor.stride())
        return Saved(number, index, size, stride, int(tensor.storage_offset()))

    return pack


def _unpacking(stream: Stream) -> Callable[[Any], Tensor]:
    def unpack(saved: Any) -> Tensor:
        if not isinstance(saved, Saved):
            return saved
        here = stream.use(saved.block)[saved.tensor]
        return here.as_strided(saved.size, saved.stride, saved.offset)

    return unpack
