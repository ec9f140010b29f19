from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import InputError, SpecError
from runtime.lora_files.resize import resized
from runtime.lora_files.save import Mark, save
from runtime.lora_files.usable import finite
from tests.consumers import a1111, comfyui, in_diffusers, kohya
from tests.consumers.loaded import unlike
from tests.runtime.export import cases as export_cases
from tests.runtime.lora_files import cases
from tests.runtime.lora_files.cases import Made, adapter, changes, kohya_files, silent


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=kohya_files())
def test_a_higher_rank_keeps_no_less(made: Made, tmp_path_factory: Any) -> None:
    of = adapter(tmp_path_factory.mktemp("resize"), made.tensors)
    highest = max(update.rank for update in of.updates.values())
    before: dict[str, float] = {}
    for rank in range(1, highest):
        result, kept, _ = resized(of, rank, None, torch.float32, silent)
        assert all(update.rank <= rank for update in result.updates.values())
        energies = {one.component: one.energy for one in kept}
        assert all(energies[name] >= before.get(name, 0) - 1e-9 for name in energies)
        assert all(0 <= one.worst_energy <= one.energy + 1e-9 <= 1 + 1e-6 for one in kept)
        before = energies


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=kohya_files(), energy=st.floats(0.05, 1.0))
def test_an_energy_is_kept_in_every_module(made: Made, energy: float, tmp_path_factory: Any) -> None:
    of = adapter(tmp_path_factory.mktemp("resize"), made.tensors)

    result, kept, _ = resized(of, None, energy, torch.float32, silent)

    meant, found = changes(of), changes(result)
    for place, change in meant.items():
        off = (found[place] - change).square().sum() / change.square().sum()
        assert 1 - off >= energy - 1e-4
    assert all(one.worst_energy >= energy - 1e-9 for one in kept)


@pytest.mark.parametrize("consumer", [a1111, comfyui, kohya, in_diffusers])
def test_ranks_of_all_sizes_are_right_in_every_program(tmp_path: Path, consumer: Any) -> None:
    """By energy every module has its own rank."""
    of = adapter(tmp_path, cases.kohya(lambda n: 3 + n % 3))
    result, _, _ = resized(of, None, 0.7, None, silent)
    assert len({update.rank for update in result.updates.values()}) > 1
    path = save(result, tmp_path / "small.safetensors", Mark("resized", (of.sha256,)))[0]

    found = consumer.load(path, export_cases.small())

    assert unlike(getattr(found, "changes", found), changes(result)) == []


@pytest.mark.parametrize("style", ["diffusers", "peft"])
def test_other_styles_keep_their_names(tmp_path: Path, style: Any) -> None:
    from runtime.lora_files.convert import converted

    of, _ = converted(adapter(tmp_path, cases.kohya(lambda n: 3 + n % 3)), style)

    result, _, _ = resized(of, 2, None, None, silent)

    meant = resized(adapter(tmp_path, cases.kohya(lambda n: 3 + n % 3)), 2, None, None, silent)[0]
    assert result.style == style and result.updates.keys() == of.updates.keys()
    assert unlike(changes(result), changes(meant), 1e-6) == []


def test_the_file_says_its_new_rank_and_the_same_twice(tmp_path: Path) -> None:
    of = adapter(
        tmp_path, cases.kohya(), {"ss_network_dim": "4", "ss_network_alpha": "2.0", "ss_output_name": "a"}
    )
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        result, _, _ = resized(of, 2, None, None, silent)
        paths += save(result, tmp_path / name / "small.safetensors", Mark("resized", (of.sha256,)))

    said = a1111.card(paths[0]).metadata
    assert (said["ss_network_dim"], said["ss_network_alpha"], said["ss_output_name"]) == ("2", "2.0", "small")
    assert said["lorac.resized_from"] == of.sha256
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_rank_that_is_no_lower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has rank 4 at most, so rank 4 would change nothing"):
        resized(adapter(tmp_path, cases.kohya()), 4, None, None, silent)


def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    tensors = cases.kohya()
    bad = [name for name in tensors if "attn1_to_q.lora_up" in name]
    for name in bad:
        tensors[name][0, 0] = torch.nan

    with pytest.raises(InputError) as caught:
        finite(adapter(tmp_path, tensors))

    assert sorted(p.what.split()[0] for p in caught.value.problems) == sorted(bad)
