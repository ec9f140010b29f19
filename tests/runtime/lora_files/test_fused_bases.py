"""Merging into single files that fuse q, k and v, or name layers over time, and taking out of them: as in the folder
that they were made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runtime.families import family
from runtime.families.inspect import inspect
from runtime.families.protocol import Family
from runtime.lora_files.bake import bake
from runtime.lora_files.bases import opened
from runtime.lora_files.extract import extracted
from runtime.lora_files.merge import Weighted
from runtime.lora_files.names import Place, names
from runtime.lora_files.save import Mark
from runtime.safeio.digest import sha256_file
from tests import single_files
from tests.runtime.lora_files import cases
from tests.runtime.lora_files.cases import adapter, silent

MARK = Mark("merged", ("0" * 64 + ":1",))
RANK, WEIGHT = 2, 0.5
CHANGED = {
    "sd2": r"attn\.in_proj_weight",
    "sdxl": r"attn\.in_proj_weight",
    "sd3": r"attn\.qkv\.weight",
    "flux1": r"(img_attn\.qkv|linear1)\.weight",
    "z_image": r"attention\.qkv\.weight",
    "svd": r"time_stack\.0\.attn1\.to_q\.weight",
}


@attrs.frozen
class Case:
    """A tiny base in float32 as one file, a LoRA of its attention and its text towers, and the base with it."""

    of: Family
    file: Path
    merged: Path
    pairs: dict[Place, tuple[Tensor, Tensor]]
    """Each module's (A, B)."""

    def part(self, path: Path, component: str) -> nn.Module:
        return self.of.load(path, inspect(path, sha256_file).base, component, torch.float32)


@pytest.fixture(scope="module", params=CHANGED)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    of, root = family(request.param), tmp_path_factory.mktemp(request.param)
    file = single_files.write(request.param, of.tiny(root / "folder"), root / "one.safetensors")
    save_file({name: tensor.float() for name, tensor in load_file(file).items()}, file)
    pairs: dict[Place, tuple[Tensor, Tensor]] = {}
    architecture = inspect(file, sha256_file).base.architecture
    for component in (of.BACKBONE, *of.TRAINED_TEXT_ENCODERS):
        with torch.device("meta"):
            built = of.build(architecture, component)
        for module, layer in built.named_modules():
            if isinstance(layer, nn.Linear) and re.search(r"attn|attention\.to_|proj_mlp", module):
                pairs[component, module] = cases.matrices(tuple(layer.weight.shape), RANK, seed=len(pairs))
    tensors = {
        f"{names(request.param).diffusers(place)}.lora_{side}.weight": matrix
        for place, pair in pairs.items()
        for side, matrix in zip("AB", pair, strict=True)
    }
    merged = root / "merged.safetensors"
    with opened(file, sha256_file) as model:
        bake([Weighted(adapter(root, tensors), WEIGHT)], model, merged, MARK, silent)
    return Case(of, file, merged, pairs)


@contextmanager
def adapted(part: nn.Module, component: str, pairs: dict[Place, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """The LoRA beside the base's own layers, as trainers run it: y + weight · B A x."""

    def beside(a: Tensor, b: Tensor) -> Any:
        return lambda _, given, out: out + WEIGHT * (given[0] @ a.T) @ b.T

    hooks = [
        part.get_submodule(module).register_forward_hook(beside(*pair))
        for (where, module), pair in pairs.items()
        if where == component
    ]
    yield
    for hook in hooks:
        hook.remove()


def test_a_merged_file_s_weights_are_the_base_s_and_the_lora_s_and_no_others_change(case: Case) -> None:
    before, after = load_file(case.file), load_file(case.merged)
    changed = [name for name in before if not torch.equal(before[name], after[name])]

    assert before.keys() == after.keys()
    assert any(re.search(CHANGED[case.of.NAME], name) for name in changed)
    for component in dict.fromkeys(component for component, _ in case.pairs):
        base, merged = (case.part(path, component).state_dict() for path in (case.file, case.merged))
        for name, weight in merged.items():
            a, b = case.pairs.get((component, name.removesuffix(".weight")), (None, None))
            meant = base[name] if a is None or b is None else base[name] + WEIGHT * b @ a
            torch.testing.assert_close(weight, meant, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["sd2", "sdxl"], indirect=True)
def test_a_merged_text_tower_says_what_the_base_with_the_lora_says(case: Case) -> None:
    for component in case.of.TRAINED_TEXT_ENCODERS:
        base, merged = (case.part(path, component).eval() for path in (case.file, case.merged))
        tokens = torch.arange(8)[None]
        with torch.no_grad():
            plain, found = (part(tokens).last_hidden_state for part in (base, merged))
            with adapted(base, component, case.pairs):
                meant = base(tokens).last_hidden_state
        torch.testing.assert_close(found, meant, rtol=1e-4, atol=1e-4)
        assert (meant - plain).abs().max() > 1e-2


def test_what_was_merged_is_taken_out_again_with_q_k_and_v(case: Case) -> None:
    with opened(case.file, sha256_file) as base, opened(case.merged, sha256_file) as tuned:
        found = extracted(base, tuned, RANK, torch.float32, silent)

    named = names(case.of.NAME)
    meant = {named.kohya(place): WEIGHT * b @ a for place, (a, b) in case.pairs.items()}
    assert {update.prefix for update in found.adapter.updates.values()} == meant.keys()
    assert found.other == {}
    for update in found.adapter.updates.values():
        assert update.up is not None and update.down is not None
        made = update.strength * update.up @ update.down
        torch.testing.assert_close(made, meant[update.prefix], rtol=0, atol=1e-5)
