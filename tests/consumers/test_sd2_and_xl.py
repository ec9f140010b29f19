"""Stable Diffusion 2 and XL: every consumer's loading rules, on exported files of their whole topology."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime import plan
from runtime.export.manifest import Manifest
from runtime.export.write import export
from runtime.families import family, sdxl, tiny, unet
from runtime.families.protocol import Family
from runtime.lora_files.adapter import read
from runtime.lora_files.convert import Target, converted
from runtime.lora_files.save import Mark, save
from runtime.lora_files.usable import usable
from tests.consumers import a1111, comfyui, compvis, in_diffusers, kohya
from tests.consumers.loaded import Changes, Loaded, unlike
from tests.runtime.export import cases

READERS: dict[str, Callable[[Path, dict[str, Any]], Loaded]] = {
    "a1111": a1111.load,
    "comfyui": comfyui.load,
    "diffusers": lambda path, architecture: Loaded(in_diffusers.load(path, architecture), []),
    "kohya": kohya.load,
}
CONSUMERS = {
    "a1111": "Stable Diffusion WebUI (AUTOMATIC1111)",
    "comfyui": "ComfyUI",
    "diffusers": "diffusers",
    "kohya": "sd-scripts (kohya)",
}
NAMES = ("sd2", "sdxl")
WIDTHS = {"sd2": [64, 64, 64, 64], "sdxl": [64, 64, 64]}
LAYERS = cases.WITH_CONVOLUTIONS


@attrs.frozen
class Exported:
    """As in conftest, of one family."""

    of: Family
    folder: Path
    manifest: Manifest
    changes: Changes
    architecture: dict[str, Any]

    @property
    def webui(self) -> Path:
        return self.folder / f"{self.manifest.name}.safetensors"


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    of, folder = family(request.param), tmp_path_factory.mktemp(request.param)
    architecture = narrow(of)
    targets = {"unet": LAYERS["unet"], **dict.fromkeys(of.TEXT_ENCODERS, LAYERS["text_encoder"])}
    trained = cases.weights(architecture, targets, of=of)
    planned = of_family(cases.a_plan(trained, dtype="fp32"), of)
    manifest = export(folder, trained, planned, cases.facts(), [cases.picture()])
    return Exported(of, folder, manifest, cases.changes(trained, planned.program.adapter), architecture)


def narrow(of: Family) -> dict[str, Any]:
    """The published topology with narrow layers, and text towers of two layers."""
    config = of.published()
    for tower in of.TEXT_ENCODERS:
        config[tower] |= tiny.CLIP
    wide = {"block_out_channels": WIDTHS[of.NAME], "cross_attention_dim": 64 * len(of.TEXT_ENCODERS)}
    config["unet"] = unet.of_64(config["unet"] | wide)
    return config


def of_family(planned: plan.Plan, of: Family) -> plan.Plan:
    """The plan, as if for a base of that family."""
    base = attrs.evolve(
        planned.program.base, family=of.NAME, prediction_type=of.prediction_type(of.published())
    )
    return plan.make(attrs.evolve(planned.program, base=base), planned.outputs, planned.estimate)


@pytest.mark.parametrize("consumer", READERS)
def test_every_module_is_changed_as_trained(made: Exported, consumer: str) -> None:
    found = READERS[consumer](made.webui, made.architecture)

    assert unlike(found.changes, made.changes) == []
    assert found.left == []


def test_diffusers_loads_the_folder_by_its_own_file(made: Exported) -> None:
    assert unlike(in_diffusers.load(made.folder, made.architecture), made.changes) == []


@pytest.mark.parametrize("consumer", READERS)
def test_the_manifest_says_that_they_load_it(made: Exported, consumer: str) -> None:
    said = next(v for v in made.manifest.consumers if v.consumer == CONSUMERS[consumer])

    assert said.loads == "loads"


def test_webui_takes_it_for_its_family(made: Exported) -> None:
    wanted = {"sd2": "SD2", "sdxl": "SDXL"}[made.of.NAME]

    assert a1111.card(made.webui).version == wanted
    assert f'"sd version":"{wanted}"' in made.webui.with_suffix(".json").read_text().replace(": ", ":")


def test_openclip_s_attention_in_part_is_lost_in_webui_alone(made: Exported, tmp_path: Path) -> None:
    """Why q, k, v and out are trained together: what outputs.md rule 7 saw, and what the presets keep to."""
    path = tmp_path / "part.safetensors"
    tensors = load_file(made.webui)
    save_file({key: value for key, value in tensors.items() if "_self_attn_k_proj" not in key}, path)
    tower = made.of.TEXT_ENCODERS[-1]
    lost = {
        place
        for place in made.changes
        if place[0] == tower and re.search(r"self_attn\.(q|v|out)_proj", place[1])
    }

    applied = {name: load(path, made.architecture).changes for name, load in READERS.items()}

    assert {name for name, changes in applied.items() if not lost <= changes.keys()} == {"a1111"}
    assert lost and not lost & applied["a1111"].keys()
    for preset in made.of.PRESETS:
        pattern = made.of.targets(made.architecture, preset, True)[tower]
        assert all(re.fullmatch(pattern, module) for component, module in lost if component == tower)


@pytest.mark.parametrize("way", ["diffusers", "peft"])
def test_it_comes_back_from_another_style_bit_for_bit(made: Exported, way: Target, tmp_path: Path) -> None:
    first = usable(read(made.webui), "converted")
    there = tmp_path / ("there" if way == "peft" else "there.safetensors")
    save(converted(first, way)[0], there, Mark("converted", (first.sha256,)))
    back, said = converted(usable(read(there), "converted"), "kohya")

    original = load_file(made.webui)
    tensors = dict(back.tensors())
    assert tensors.keys() == original.keys()
    assert all(torch.equal(tensors[name], original[name]) for name in original)
    assert not said


# ------------------------------------------------------------------------------------------------- the names, whole


def test_sdxl_s_names_are_those_that_kohya_gives_all_of_them() -> None:
    """The counts are those of kohya's own code (facts/outputs.md 1.3): 722 of the UNet, 66 more for convolutions."""
    architecture = sdxl.published()
    names = kohya.names(architecture, convolutions=True)
    attention = kohya.names(architecture)

    assert sum(name.startswith("lora_unet_") for name in attention) == 722
    assert sum(name.startswith("lora_unet_") for name in names) == 722 + 66
    assert sum(name.startswith("lora_te1_text_model_encoder_layers_") for name in names) == 72
    assert sum(name.startswith("lora_te2_text_model_encoder_layers_") for name in names) == 192
    assert {name: sdxl.export_name(*place) for name, place in names.items()} == {n: n for n in names}


def test_sdxl_s_layers_around_the_blocks_have_their_original_names() -> None:
    named = {
        sdxl.export_name("unet", module)
        for original, module in compvis.in_diffusers(sdxl.published()).items()
        if original.startswith(("time_embed", "label_emb", "input_blocks.0.0", "out."))
    }

    assert named == {
        "lora_unet_time_embed_0",
        "lora_unet_time_embed_2",
        "lora_unet_label_emb_0_0",
        "lora_unet_label_emb_0_2",
        "lora_unet_input_blocks_0_0",
        "lora_unet_out_2",
    }
