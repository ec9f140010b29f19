from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.errors import InputError
from runtime.families import sd1
from runtime.lora_files import extract
from runtime.lora_files.adapter import Adapter
from runtime.lora_files.bake import bake
from runtime.lora_files.bases import opened
from runtime.lora_files.extract import Extracted, extracted
from runtime.lora_files.merge import Weighted
from runtime.lora_files.save import Mark, save
from runtime.safeio.digest import sha256_file
from tests.consumers import a1111, kohya
from tests.consumers.loaded import unlike
from tests.runtime.lora_files import cases
from tests.runtime.lora_files.cases import adapter, changes, silent
from tests.single_files.sd1 import write_single_file

RANK = 3
MARK = Mark("merged", ("0" * 64 + ":1",))
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base in float32, so that a difference is exact."""
    folder = tmp_path_factory.mktemp("full") / "base"
    for file in sorted(tiny_base.rglob("*")):
        target = folder / file.relative_to(tiny_base)
        if file.is_dir():
            target.mkdir(parents=True)
        elif file.suffix == ".safetensors":
            save_file({name: t.float() for name, t in load_file(file).items()}, target, {"format": "pt"})
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    with opened(base, sha256_file) as model:
        assert model.found is not None
        sizes = model.found.base.architecture
    with torch.device("meta"):
        built = {c: sd1.build(sizes, c) for c in ("unet", "text_encoder")}
    places = [(c, m, tuple(built[c].get_submodule(m).weight.shape)) for c, m, _ in cases.PLACES]
    return adapter(tmp_path_factory.mktemp("lora"), cases.kohya(lambda _: RANK, places=places))


@pytest.fixture(scope="module")
def tuned(base: Path, lora: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with the LoRA in it."""
    out = tmp_path_factory.mktemp("tuned") / "tuned"
    with opened(base, sha256_file) as model:
        bake([Weighted(lora, 1.0)], model, out, MARK, silent)
    return out


def taken(base: Path, tuned: Path, rank: int, dtype: torch.dtype = torch.float32) -> Extracted:
    with opened(base, sha256_file) as ours, opened(tuned, sha256_file) as theirs:
        return extracted(ours, theirs, rank, dtype, silent)


def test_what_was_added_to_a_base_is_found_again(base: Path, tuned: Path, lora: Adapter) -> None:
    found = taken(base, tuned, RANK)

    assert unlike(changes(found.adapter), changes(lora), 1e-5) == []
    assert all(one.energy > 1 - 1e-6 for one in found.kept)
    assert found.other == {}


@pytest.mark.parametrize("which", ["base", "tuned", "both"])
def test_a_single_file_gives_the_same_as_a_folder(
    base: Path, tuned: Path, tmp_path: Path, which: str
) -> None:
    files = {
        "base": write_single_file(base, tmp_path / "base.safetensors") if which != "tuned" else base,
        "tuned": write_single_file(tuned, tmp_path / "tuned.safetensors") if which != "base" else tuned,
    }

    found, folder = taken(files["base"], files["tuned"], RANK), taken(base, tuned, RANK)

    assert cases.same(dict(found.adapter.tensors()), dict(folder.adapter.tensors()))


def test_a_lower_rank_keeps_less_and_says_how_much(base: Path, tuned: Path, lora: Adapter) -> None:
    found, meant = taken(base, tuned, 1), changes(lora)
    got = changes(found.adapter)

    for of in found.kept:
        own = [place for place in meant if place[0] == of.component]
        off = sum((got[p] - meant[p]).square().sum().item() for p in own)
        assert of.energy == pytest.approx(
            1 - off / sum(meant[p].square().sum().item() for p in own), abs=1e-4
        )
        assert 0.2 < of.energy < 0.99


def test_large_matrices_are_taken_apart_at_random_and_yet_alike(
    base: Path, tuned: Path, lora: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "EXACT_SIDE", 0)
    monkeypatch.setattr(extract, "OVERSAMPLED", 4)

    one, two = taken(base, tuned, RANK), taken(base, tuned, RANK)

    assert cases.same(dict(one.adapter.tensors()), dict(two.adapter.tensors()))
    assert unlike(changes(one.adapter), changes(lora), 1e-4) == []


def test_the_file_is_loaded_by_kohya_s_readers(
    base: Path, tuned: Path, lora: Adapter, tmp_path: Path
) -> None:
    found = taken(base, tuned, RANK, torch.float16)
    path = save(found.adapter, tmp_path / "made.safetensors", Mark("extracted", ("a", "b")))[0]
    with opened(base, sha256_file) as model:
        assert model.found is not None
        sizes = model.found.base.architecture

    for consumer in (a1111, kohya):
        loaded: Any = consumer.load(path, sizes)
        assert loaded.left == [] and unlike(loaded.changes, changes(lora), 1e-3) == []
    card = a1111.card(path)
    assert (card.alias, card.version, card.metadata["ss_network_dim"]) == ("made", "SD1", str(RANK))


def test_what_a_lora_cannot_hold_is_counted(base: Path, tuned: Path, tmp_path: Path) -> None:
    for file in sorted(tuned.rglob("*")):
        target = tmp_path / "tuned" / file.relative_to(tuned)
        target.mkdir(parents=True) if file.is_dir() else None
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "tuned" / UNET)
    weights["conv_norm_out.weight"] += 1
    weights["conv_out.bias"] += 1
    save_file(weights, tmp_path / "tuned" / UNET)

    assert taken(base, tmp_path / "tuned", RANK).other == {"unet": 2}


def test_two_models_that_are_the_same_are_refused(base: Path) -> None:
    with pytest.raises(InputError, match=r"differs from .* in no weight that a LoRA can hold"):
        taken(base, base, RANK)


def test_a_model_of_other_sizes_is_refused_all_at_once(base: Path, embedded_base: Path) -> None:
    with pytest.raises(InputError) as caught:
        taken(base, embedded_base, RANK)

    assert len(caught.value.problems) > 50
