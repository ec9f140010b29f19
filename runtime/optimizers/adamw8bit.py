"""AdamW whose moments are kept in 8 bits, by block-wise dynamic quantisation (Dettmers et al. 2022).

- Blocks of 256 numbers share a scale, their largest magnitude; a number is a byte's place in a table of 256 values,
  dense near zero and near one: about 2.03 bytes of state a parameter instead of 8.
- The arithmetic is torch's own `adamw` on the moments of one tensor at a time, read as float32 and packed again: so
  some five float32 tensors of its size are all that is alive besides.
- Tensors of fewer than 4096 numbers keep float32 moments, as in bitsandbytes, and move exactly as under AdamW.
- Plain torch: the same bytes on each CPU run, and traceable on fake tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adamw import adamw

BLOCK = 256
SMALLEST = 4096
"""Numbers a tensor must have for its moments to be packed."""

MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""Each moment's name in the state, and whether it has a sign."""


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) over float32 parameters.

    State of each, all tensors: `step` () float32 on the host; `exp_avg` and `exp_avg_sq`, in the parameter's shape and
    dtype if it is small, else (blocks, 256) uint8 with `exp_avg_scale` and `exp_avg_sq_scale` (blocks,) float32.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]] | Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._tables: dict[tuple[torch.device, bool], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            small = [parameter for parameter in moving if parameter.numel() < SMALLEST]
            if small:
                states = [self._state(parameter) for parameter in small]
                self._move(group, small, *([state[name] for state in states] for name in MOMENTS))
            for parameter in moving:
                if parameter.numel() >= SMALLEST:
                    self._move_packed(group, parameter)
        return loss

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The parameter's state; moments are zero at first."""
        state = cast(dict[str, Tensor], self.state[parameter])
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            for name, signed in MOMENTS.items():
                zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                if parameter.numel() < SMALLEST:
                    state[name] = zeros
                else:
                    state[name], state[f"{name}_scale"] = self._pack(zeros, signed)
        return state

    def _move_packed(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        state = self._state(parameter)
        moments = [
            self._unpack(state[name], state[f"{name}_scale"], parameter, signed)
            for name, signed in MOMENTS.items()
        ]
        self._move(group, [parameter], *([moment] for moment in moments))
        for (name, signed), moment in zip(MOMENTS.items(), moments, strict=True):
            packed, scale = self._pack(moment, signed)
            state[name].copy_(packed)
            state[f"{name}_scale"].copy_(scale)

    def _move(
        self,
        group: dict[str, Any],
        parameters: list[nn.Parameter],
        averages: list[Tensor],
        squares: list[Tensor],
    ) -> None:
        """One step of AdamW: parameters, moments and step counts change in place."""
        beta1, beta2 = group["betas"]
        adamw(
            cast(list[Tensor], parameters),
            [cast(Tensor, parameter.grad) for parameter in parameters],
            averages,
            squares,
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            foreach=True,  # as `build_optimizer` asks of AdamW
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _pack(self, moment: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
        """Codes (blocks, 256) uint8 and scales (blocks,) float32 of a float32 tensor, padded with zeros."""
        flat = moment.reshape(-1)
        missing = -flat.numel() % BLOCK
        blocks = (F.pad(flat, (0, missing)) if missing else flat).view(-1, BLOCK)
        scale = torch.linalg.vector_norm(blocks, ord=torch.inf, dim=1)
        shares = blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        _, bounds = self._table(moment.device, signed)
        return torch.bucketize(shares, bounds, out_int32=True).to(torch.uint8), scale

    def _unpack(self, codes: Tensor, scale: Tensor, like: Tensor, signed: bool) -> Tensor:
        """What was packed, in the shape of `like`."""
        values, _ = self._table(codes.device, signed)
        blocks = values.index_select(0, codes.view(-1).int()).view(-1, BLOCK).mul_(scale[:, None])
        return blocks.view(-1)[: like.numel()].view(like.shape)

    def _table(self, device: torch.device, signed: bool) -> tuple[Tensor, Tensor]:
        """The values of the codes, and the bounds between which a number gets each code.

        A second moment above zero never gets the code of zero: what is rounded to zero would be divided by eps alone
        in the next step, and move the parameter by hundreds of learning rates.
        """
        key = (device, signed)
        if key not in self._tables:
            values = dynamic_map(signed)
            bounds = [(low + high) / 2 for low, high in pairwise(values)]
            if not signed:
                bounds[0] = 0.0
            self._tables[key] = tuple(
                torch.tensor(numbers, dtype=torch.float32, device=device) for numbers in (values, bounds)
            )  # type: ignore[assignment]
        return self._tables[key]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_tables": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, to the byte. torch's own would make the codes numbers of the parameter's dtype."""
        super().load_state_dict(state_dict)
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, parameters, strict=True):
            if number in state_dict["state"]:
                self.state[parameter] = {
                    name: value.clone() if name == "step" else value.to(parameter.device, copy=True)
                    for name, value in state_dict["state"][number].items()
                }


def dynamic_map(signed: bool) -> list[float]:
    """The 256 values of the dynamic data type, ascending (Dettmers 2016; bitsandbytes' `create_dynamic_map`).

    Seven decades up to 1; the higher a decade, the more values share it evenly. With a sign, each but 0 and 1 twice.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        size = 10.0 ** (decade - 6)
        places = [size * (0.1 + 0.9 * (index + 0.5) / count) for index in range(count)]
        values += places
        if signed:
            values += [-place for place in places]
    return sorted(values)
