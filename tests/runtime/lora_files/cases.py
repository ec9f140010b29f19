"""LoRA files of SD 1.x's modules as other trainers write them, and what each one changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.families import sd1
from runtime.lora_files.adapter import Adapter, read
from runtime.lora_files.factors import pair
from runtime.lora_files.names import names
from tests.runtime.export import cases

Tensors = dict[str, Tensor]
Changes = dict[tuple[str, str], Tensor]

FEW = {
    "unet": r"(mid_block|up_blocks\.1)\.attentions\.0\..*(proj_in|attn1.*|net\.2)|mid_block\.resnets\.1\..*",
    "text_encoder": r".*\.layers\.1\.self_attn\..*",
}
"""One of each kind, kernels of 1 × 1 and 3 × 3 among them."""

PLACES = [
    (component, module, shape)
    for component, modules in cases.adapted(cases.small(), FEW).items()
    for module, shape in modules.items()
]


def matrices(shape: tuple[int, ...], rank: int, seed: int = 0, size: float = 0.1) -> tuple[Tensor, Tensor]:
    """Random (A, B) for a weight of this shape."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn((rank, *shape[1:]), generator=generator) * size
    b = torch.randn((shape[0], rank, *([1] * (len(shape) - 2))), generator=generator) * size
    return a, b


def kohya(
    rank: Callable[[int], int] = lambda _: 4,
    alpha: Callable[[int], Tensor | None] = lambda _: torch.tensor(2.0),
    dtype: torch.dtype = torch.float32,
    places: Any = PLACES,
    seed: int = 0,
) -> Tensors:
    """A file's tensors in kohya's names; rank and alpha by the module's number."""
    made: Tensors = {}
    for number, (component, module, shape) in enumerate(places):
        a, b = matrices(shape, rank(number), seed + number)
        prefix = sd1.export_name(component, module)
        made[f"{prefix}.lora_down.weight"], made[f"{prefix}.lora_up.weight"] = a.to(dtype), b.to(dtype)
        if (value := alpha(number)) is not None:
            made[f"{prefix}.alpha"] = value
    return made


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file by the library's own writer."""
    save_file(
        {name: t.clone().contiguous() for name, t in tensors.items()},
        path,
        metadata=dict(metadata or {}) or None,
    )
    return path


def changes(adapter: Adapter, weight: float = 1.0) -> Changes:
    """(component, module) -> what an adapter adds to the weight, flat."""
    found: Changes = {}
    for update in adapter.updates.values():
        place, factors = names("sd1").place(update), pair(update)
        assert place is not None and factors is not None
        found[place] = weight * factors[0] @ factors[1]
    return found


def expected(tensors: Tensors) -> Changes:
    """What a file in kohya's names changes, by kohya's rule, from its tensors alone."""
    found: Changes = {}
    for component, module, _ in PLACES:
        prefix = sd1.export_name(component, module)
        if f"{prefix}.lora_down.weight" in tensors:
            down, up = (tensors[f"{prefix}.lora_{part}.weight"].float() for part in ("down", "up"))
            alpha = tensors.get(f"{prefix}.alpha")
            scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
            found[component, module] = scale * up.flatten(1) @ down.flatten(1)
    return found


def same(one: Tensors, other: Tensors) -> bool:
    """Whether two files' tensors are the same bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8))
        for name in one
    )


def tensors_in(path: Path) -> Tensors:
    """All tensors of a file, or of the files of a PEFT folder with their component before the name."""
    if path.is_file():
        return dict(load_file(path))
    return {
        f"{file.parent.relative_to(path)}/{name}": tensor
        for file in sorted(path.rglob("adapter_model.safetensors"))
        for name, tensor in load_file(file).items()
    }


def adapter(
    folder: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, name: str = "a"
) -> Adapter:
    """The adapter in a file of these tensors."""
    return read(write(folder / f"{name}.safetensors", tensors, metadata))


def silent(what: str, share: float) -> None:
    """Progress that nobody watches."""
    assert 0 <= share <= 1, what


@attrs.frozen
class Made:
    """A file in kohya's names in few words, so that a failing example can be read. `modules`: number in PLACES, rank,
    alpha as (value, dtype, shape) or None."""

    modules: tuple[tuple[int, int, tuple[float, str, tuple[int, ...]] | None], ...]
    dtype: str
    seed: int

    @property
    def tensors(self) -> Tensors:
        def alpha(number: int) -> Tensor | None:
            stated = self.modules[number][2]
            return (
                None
                if stated is None
                else torch.tensor(stated[0]).to(getattr(torch, stated[1])).reshape(stated[2])
            )

        places = [PLACES[place] for place, _, _ in self.modules]
        return kohya(lambda n: self.modules[n][1], alpha, getattr(torch, self.dtype), places, self.seed)


DTYPES = st.sampled_from(["float32", "float16", "bfloat16"])
ALPHAS = st.none() | st.tuples(st.floats(0.0625, 300, width=32), DTYPES, st.sampled_from([(), (1,)]))


@st.composite
def kohya_files(draw: st.DrawFn) -> Made:
    """Some modules, any ranks, any alphas in any dtype, here and there none."""
    places = draw(st.lists(st.integers(0, len(PLACES) - 1), min_size=1, max_size=6, unique=True))
    one = draw(ALPHAS)
    alphas = st.just(one) if draw(st.booleans()) else ALPHAS
    modules = tuple((place, draw(st.integers(1, 6)), draw(alphas)) for place in places)
    return Made(modules, draw(DTYPES), draw(st.integers(0, 2**20)))
