"""The sum of adapters, as one adapter and in a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from runtime.errors import InputError
from runtime.families import sd1
from runtime.lora_files.adapter import read
from runtime.lora_files.bake import bake
from runtime.lora_files.bases import opened
from runtime.lora_files.convert import converted
from runtime.lora_files.merge import Weighted, merged
from runtime.lora_files.names import names
from runtime.lora_files.save import Mark, save
from runtime.lora_files.usable import ADDITIVE, usable
from runtime.safeio.digest import sha256_file
from tests.consumers import a1111, comfyui, in_diffusers, kohya
from tests.consumers.loaded import unlike
from tests.runtime.export import cases as export_cases
from tests.runtime.lora_files import cases
from tests.runtime.lora_files.cases import Changes, Made, adapter, changes, kohya_files, silent
from tests.runtime.lora_files.test_factors import trained
from tests.single_files.sd1 import original, write_single_file

ROUNDED_ONCE = {"rtol": 2**-11 * 1.01, "atol": 2**-24}
"""To float16: half a step of its 11 bits, or of its smallest number."""

MARK = Mark("merged", ("0" * 64 + ":1",))
WEIGHTS = st.just(0.0) | st.floats(0.0625, 2, width=32) | st.floats(-2, -0.0625, width=32)


def added(*terms: Changes) -> Changes:
    found: Changes = {}
    for term in terms:
        for place, change in term.items():
            found[place] = found[place] + change if place in found else change
    return found


def size(of: Changes) -> float:
    """The norm of all, by Frobenius."""
    return sum(float(change.double().square().sum()) for change in of.values()) ** 0.5


def near(found: Changes, wanted: Changes) -> bool:
    """Alike to float noise, measured on the largest numbers of all."""
    size = max(change.abs().max().item() for change in wanted.values())
    return found.keys() == wanted.keys() and all(
        torch.allclose(found[place], wanted[place], atol=1e-5 * max(size, 1e-3)) for place in wanted
    )


# ------------------------------------------------------------------------------------------------------- into one


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(st.tuples(kohya_files(), WEIGHTS), min_size=1, max_size=3))
def test_a_merged_lora_changes_what_all_change_together(
    made: list[tuple[Made, float]], tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    adapters = [adapter(folder, one.tensors, name=f"{n}") for n, (one, _) in enumerate(made)]
    weighted = [Weighted(one, weight) for one, (_, weight) in zip(adapters, made, strict=True)]

    result, kept, off = merged(weighted, None, torch.float32, silent)

    terms = [changes(one.adapter, one.weight) for one in weighted]
    assert near(changes(result), added(*terms))
    assert kept == []
    assert (
        off * size(changes(result)) < 1e-6 * sum(map(size, terms)) + 1e-12
    )  # terms may cancel, their noise doesn't
    ranks = {at: sum(one.updates[at].rank for one in adapters if at in one.updates) for at in result.updates}
    assert {at: update.rank for at, update in result.updates.items()} == ranks


@pytest.mark.parametrize("consumer", [a1111, comfyui, kohya, in_diffusers])
def test_a_merged_file_is_right_in_every_program(tmp_path: Path, consumer: Any) -> None:
    """Ranks differ between modules, and so would alphas if they were the ranks: diffusers would be wrong."""
    one = adapter(tmp_path, cases.kohya(lambda n: 2 + n % 3), name="one")
    two = adapter(tmp_path, cases.kohya(lambda n: 5, seed=99, places=cases.PLACES[::2]), name="two")
    result, _, _ = merged([Weighted(one, 0.8), Weighted(two, -0.5)], None, None, silent)
    path = save(result, tmp_path / "sum.safetensors", MARK)[0]

    found = consumer.load(path, export_cases.small())

    wanted = added(changes(one, 0.8), changes(two, -0.5))
    assert unlike(getattr(found, "changes", found), wanted) == []


def test_adapters_in_different_names_are_merged_in_the_first_one_s(tmp_path: Path) -> None:
    one, two = (adapter(tmp_path, cases.kohya(seed=seed), name=str(seed)) for seed in (1, 2))
    other, _ = converted(two, "peft")

    result, _, _ = merged([Weighted(one, 1.0), Weighted(other, 2.0)], None, torch.float32, silent)

    assert result.style == "kohya"
    assert near(changes(result), added(changes(one), changes(two, 2.0)))


def test_at_a_lower_rank_it_keeps_what_it_says(tmp_path: Path) -> None:
    one, two = (adapter(tmp_path, cases.kohya(seed=seed), name=str(seed)) for seed in (1, 2))
    weighted = [Weighted(one, 1.0), Weighted(two, 1.0)]

    result, kept, _ = merged(weighted, 5, torch.float32, silent)

    wanted, found = added(changes(one), changes(two)), changes(result)
    assert {update.rank for update in result.updates.values()} == {5}
    for of in kept:
        places = [place for place in wanted if place[0] == of.component]
        off = sum((found[p] - wanted[p]).square().sum().item() for p in places)
        whole = sum(wanted[p].square().sum().item() for p in places)
        assert of.energy == pytest.approx(1 - off / whole, abs=1e-4)
        assert 0.3 < of.worst_energy <= of.energy < 1


def test_sixteen_bits_round_as_much_as_is_said(tmp_path: Path) -> None:
    one = adapter(tmp_path, cases.kohya(dtype=torch.float16))
    weighted = [Weighted(one, 0.3), Weighted(one, 0.4)]

    exact, _, _ = merged(weighted, None, torch.float32, silent)
    stored, _, off = merged(weighted, None, None, silent)

    assert {update.parts["down"].dtype for update in stored.updates.values()} == {torch.float16}
    meant, found = changes(exact), changes(stored)
    error = sum((found[p] - meant[p]).square().sum() for p in meant) / sum(
        c.square().sum() for c in meant.values()
    )
    assert off == pytest.approx(float(error) ** 0.5, rel=1e-2)
    assert 1e-5 < off < 1e-3


def test_loras_for_other_sizes_are_refused_all_at_once(tmp_path: Path) -> None:
    places = [(component, module, (16, 24, *shape[2:])) for component, module, shape in cases.PLACES]
    one, two = adapter(tmp_path, cases.kohya()), adapter(tmp_path, cases.kohya(places=places), name="two")

    with pytest.raises(InputError) as caught:
        merged([Weighted(one, 1.0), Weighted(two, 1.0)], None, None, silent)

    assert len(caught.value.problems) == len(places)


def test_what_trained_the_first_is_not_said_of_the_sum(tmp_path: Path) -> None:
    said = {"ss_output_name": "one", "ss_network_dim": "4", "ss_v2": "False", "lorac.plan_hash": "f" * 64}
    one = adapter(tmp_path, cases.kohya(), {**said, "ss_steps": "20", "ss_tag_frequency": "{}"}, "one")
    two = adapter(tmp_path, cases.kohya(), {**said, "ss_steps": "30"}, "two")

    result, _, _ = merged([Weighted(one, 1.0), Weighted(two, 1.0)], None, None, silent)

    assert result.metadata == {
        "ss_output_name": "one",
        "ss_network_dim": "8",
        "ss_network_alpha": "8.0",
        "ss_v2": "False",
        "lorac.from_plan": "f" * 64,
    }


# ----------------------------------------------------------------------------------------------------- into a base


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny base in each layout."""
    folder = tmp_path_factory.mktemp("layouts")
    return {
        "folder": tiny_base,
        "safetensors": write_single_file(tiny_base, folder / "one.safetensors"),
        "ckpt": write_single_file(tiny_base, folder / "one.ckpt"),
    }


def for_tiny(folder: Path, name: str, seed: int, text_encoder: bool = True) -> Any:
    """A LoRA of the tiny base's sizes."""
    with torch.device("meta"):
        built = {c: sd1.build(TINY, c) for c in ("unet", "text_encoder")}
    places = [
        (component, module, tuple(built[component].get_submodule(module).weight.shape))
        for component, module, _ in cases.PLACES
        if component == "unet" or text_encoder
    ]
    return adapter(folder, cases.kohya(places=places, seed=seed), name=name)


TINY: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def tiny_sizes(tiny_base: Path) -> None:
    with opened(tiny_base, sha256_file) as model:
        assert model.found is not None
        TINY.update(model.found.base.architecture)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """A whole model's tensors by their original names, whatever its layout."""
    return original(path) if path.is_dir() else load_file(path)


@pytest.mark.parametrize("layout", ["folder", "safetensors", "ckpt"])
def test_a_base_gets_the_sum_of_all_and_nothing_else_changes(
    whole: dict[str, Path], tiny_base: Path, tmp_path: Path, layout: str
) -> None:
    one, two = for_tiny(tmp_path, "one", 1), for_tiny(tmp_path, "two", 2, text_encoder=False)
    weighted = [Weighted(one, 0.75), Weighted(two, -0.5)]
    out = tmp_path / ("out" if layout == "folder" else "out.safetensors")

    with opened(whole[layout], sha256_file) as model:
        done = bake(weighted, model, out, MARK, silent)
        places = {stored[0].name: place for place, stored in model.weights.items()}

    wanted = added(changes(one, 0.75), changes(two, -0.5))
    before, after = original(tiny_base), weights_of(out)
    theirs = names_in(tiny_base)
    changed = set()
    assert before.keys() == after.keys()
    for name, weight in after.items():
        place = theirs.get(name)
        assert weight.dtype == before[name].dtype
        if place in wanted:
            meant = before[name].float() + wanted[place].reshape(before[name].shape)
            torch.testing.assert_close(weight.float(), meant, **ROUNDED_ONCE)
            changed.add(place)
        else:
            assert torch.equal(weight, before[name]), f"{name} is no LoRA's"
    assert changed == wanted.keys() and done.changed == len(changed) and places


def names_in(folder: Path) -> dict[str, tuple[str, str]]:
    """Original name of a weight -> (component, module)."""
    single = original(folder)
    found = sd1.original_names(list(single), TINY)
    return {
        theirs: (component, ours.removesuffix(".weight"))
        for component, of in found.items()
        for ours, theirs in of.items()
        if ours.endswith(".weight")
    }


def test_a_merged_folder_is_a_whole_base(whole: dict[str, Path], tmp_path: Path) -> None:
    """Every file of the base is there, and diffusers draws from it."""
    (tmp_path / "base").mkdir()
    for file in sorted(whole["folder"].rglob("*")):
        target = tmp_path / "base" / file.relative_to(whole["folder"])
        target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"old weights")

    with opened(tmp_path / "base", sha256_file) as model:
        done = bake([Weighted(for_tiny(tmp_path, "one", 1), 1.0)], model, tmp_path / "out", MARK, silent)

    listed = lambda folder: {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}  # noqa: E731
    assert done.left_out == ("unet/diffusion_pytorch_model.bin",)
    assert listed(tmp_path / "out") == listed(whole["folder"])
    with opened(tmp_path / "out", sha256_file) as model:
        assert model.found is not None and model.found.base.architecture == TINY


def test_a_folder_s_two_precisions_are_both_merged(whole: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    for file in sorted(whole["folder"].rglob("*")):
        target = base / file.relative_to(whole["folder"])
        target.mkdir(parents=True) if file.is_dir() else (
            target.parent.mkdir(parents=True, exist_ok=True),
            target.write_bytes(file.read_bytes()),
        )
    plain = base / "unet" / "diffusion_pytorch_model.safetensors"
    halves = load_file(plain)
    save_file(halves, base / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    save_file({name: tensor.float() for name, tensor in halves.items()}, plain)

    with opened(base, sha256_file) as model:
        bake([Weighted(for_tiny(tmp_path, "one", 1), 1.0)], model, tmp_path / "out", MARK, silent)

    after = {
        name: load_file(tmp_path / "out" / "unet" / name)
        for name in (plain.name, "diffusion_pytorch_model.fp16.safetensors")
    }
    full, half = after.values()
    assert all(half[name].dtype == torch.float16 and full[name].dtype == torch.float32 for name in full)
    assert all(torch.equal(full[name].half(), half[name]) for name in full)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_other_additive_methods_go_into_a_base(whole: dict[str, Path], tmp_path: Path, kind: str) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    update, meant = trained(kind, (32, 32), rank=2)
    prefix = sd1.export_name("unet", name)
    tensors = {f"{prefix}.{part}": tensor for part, tensor in update.parts.items()}
    made = usable(adapter(tmp_path, {**tensors, f"{prefix}.alpha": torch.tensor(6.0)}), "merged", ADDITIVE)

    with opened(whole["folder"], sha256_file) as model:
        bake([Weighted(made, 1.0)], model, tmp_path / "out", MARK, silent)

    file = Path("unet") / "diffusion_pytorch_model.safetensors"
    before, after = (
        load_file(folder / file)[f"{name}.weight"].float() for folder in (whole["folder"], tmp_path / "out")
    )
    torch.testing.assert_close(after, before + meant, **ROUNDED_ONCE)


def test_modules_that_a_base_lacks_or_has_in_another_size_are_told_before_anything_is_written(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    other_sizes = adapter(tmp_path, cases.kohya(), name="wide")  # for layers of 64, the tiny base has 32
    deeper = cases.kohya(places=[("text_encoder", "encoder.layers.9.mlp.fc1", (64, 64))])

    with opened(whole["folder"], sha256_file) as model:
        with pytest.raises(InputError) as caught:
            bake([Weighted(other_sizes, 1.0)], model, tmp_path / "out", MARK, silent)
        assert len(caught.value.problems) > 5 and "does not fit" in str(caught.value)
        with pytest.raises(InputError, match=r"has no text_encoder\.encoder\.layers\.9"):
            bake(
                [Weighted(adapter(tmp_path, deeper, name="deep"), 1.0)], model, tmp_path / "out", MARK, silent
            )

    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


def test_a_language_model_s_folder_gets_peft_s_own_sum(tmp_path: Path) -> None:
    sizes = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(sizes).save_pretrained(tmp_path / "base", max_shard_size="20KB")
        config = LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=["q_proj", "down_proj", "embed_tokens"],
            use_rslora=True,
            init_lora_weights=False,
        )
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        get_peft_model(base, config).save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1, "sharded"

    with opened(tmp_path / "base", sha256_file) as model:
        bake(
            [Weighted(usable(read(tmp_path / "lora"), "merged"), 1.0)], model, tmp_path / "out", MARK, silent
        )

    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(fresh, tmp_path / "lora").merge_and_unload().state_dict()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert not torch.equal(ours["model.embed_tokens.weight"], fresh.state_dict()["lm_head.weight"])


@pytest.mark.parametrize("family", ["sd1"])
def test_a_family_s_original_names_cover_every_module_of_it(tiny_base: Path, family: str) -> None:
    of = names(family).family
    found = of.original_names(list(original(tiny_base)), TINY)

    for component in (of.BACKBONE, *of.TEXT_ENCODERS):
        with torch.device("meta"):
            built = of.build(TINY, component)
        assert {name for name, _ in built.named_parameters()} <= found[component].keys()
