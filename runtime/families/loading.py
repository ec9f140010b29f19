"""A component with its weights, from a diffusers folder or from a single file's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from runtime import plan
from runtime.errors import InputError, Problem
from runtime.families import fewer_bits
from runtime.families.protocol import Architecture
from runtime.safeio import weights


def from_folder(path: Path, component: str, kind: Any, dtype: torch.dtype) -> nn.Module:
    """A component of a diffusers folder; `kind` is its class in diffusers or transformers."""
    disable_progress_bar()  # the variable that `families` sets comes too late where transformers was imported before
    extra = {"local_files_only": True, "use_safetensors": True, "variant": _variant(path / component)}
    return kind.from_pretrained(path, subfolder=component, torch_dtype=dtype, **extra).eval()


def _variant(folder: Path) -> str | None:
    """ "fp16" where a folder holds no other weights: `NAME.fp16.safetensors`."""
    stems = [file.name.split(".") for file in folder.glob("*.safetensors")]
    return "fp16" if stems and all("fp16" in stem for stem in stems) else None


Read = Callable[[str], Tensor]
"""A tensor by its name in a file."""


def load(
    path: Path,
    base: plan.Base,
    component: str,
    dtype: torch.dtype,
    kinds: Mapping[str, Any],
    build: Callable[[Architecture, str], nn.Module],
    state: Callable[[Architecture, str, list[str], Read], Mapping[str, Tensor]],
    title: str,
) -> nn.Module:
    """`Family.load`. `path` is a diffusers folder, or the single file with this component. `kinds`: component -> its
    class in diffusers or transformers. `state`: the architecture, the component, that file's names, how one is read ->
    the component's weights under the names that it has once built.

    Raises InputError for what a single file lacks or has in another shape, all at once.
    """
    if base.layout == "diffusers":
        return from_folder(path, component, kinds[component], dtype)
    with weights.open_weights(path) as file:
        read = fewer_bits.reader(file, dtype)
        found = state(base.architecture, component, fewer_bits.names(file), read)
    make = partial(build, base.architecture, component)
    return _from_tensors(make, found, dtype, f"{path}: {component}", title)


def _from_tensors(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], dtype: torch.dtype, where: str, title: str
) -> nn.Module:
    """A component made of the file's weights, all of them and no others, in `dtype`; what no file holds is made anew.

    `where` names the file and the component, `title` the family.
    """
    with init_empty_weights(include_buffers=False):
        module = build()
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    problems = [f"has no tensor {name}" for name in wanted if name not in state]
    problems += [
        f"tensor {name} has shape {tuple(state[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        raise InputError(
            [
                Problem(where, what, f"this is not a whole {title} file; download it again")
                for what in problems
            ]
        )
    held = {name for name, _ in module.named_buffers()}
    given = {name: tensor.to(dtype) for name, tensor in state.items() if name in wanted or name in held}
    module.load_state_dict(given, strict=False, assign=True)
    return module.eval()
