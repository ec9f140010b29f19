"""What Stable Diffusion WebUI shows of an exported file, and what Forge and ComfyUI read of its metadata."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable

from PIL import Image

from tests.consumers import a1111
from tests.consumers.conftest import Exported

Make = Callable[..., Exported]


def test_webui_s_card(exported: Make) -> None:
    made = exported()
    data = made.webui.read_bytes()
    body = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()

    card = a1111.card(made.webui)

    assert (card.alias, card.version, card.shorthash) == ("cyberpunk", "SD1", body[:12])
    assert card.shorthash == made.manifest.hashes.webui_shorthash


def test_the_prompt_of_the_manifest_calls_the_file_at_its_weight(exported: Make) -> None:
    made = exported()
    alias = a1111.alias_in_prompt(a1111.card(made.webui).alias, others=["cyberpunk"])

    assert a1111.prompt_calls(made.manifest.usage.example) == [("lora", [alias, "0.8"])]
    assert alias == made.webui.stem


def test_webui_s_panel_is_whole_and_shows_no_date(exported: Make) -> None:
    assert a1111.panel(a1111.card(exported().webui).metadata) == {
        "Output name": "cyberpunk",
        "Model": "small-sd",
        "Kohya module": "networks.lora",
        "Resolutions": "512x512, 448x640",
        "Dataset size": "3",
    }


def test_webui_s_tags(exported: Make) -> None:
    tags = a1111.tag_cloud(a1111.card(exported().webui).metadata)

    assert dict(tags) == {"catstyle": 3, "night": 2, "a red cat": 1, "a blue cat": 1, "a dog": 1}


def test_forge_takes_it_for_stable_diffusion_1(exported: Make) -> None:
    """Forge dfdcbab6 knows SD 1 by modelspec's architecture alone."""
    metadata = a1111.card(exported().webui).metadata

    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.implementation"] == "diffusers"


def test_comfyui_s_panel_is_filled(exported: Make) -> None:
    """Its frontend reads these keys, from a header below 1 MiB."""
    made = exported()
    metadata = a1111.card(made.webui).metadata
    header = int.from_bytes(made.webui.read_bytes()[:8], "little")

    assert header < 2**20
    assert {
        key: metadata[f"modelspec.{key}"] for key in ("title", "author", "resolution", "trigger_phrase")
    } == {
        "title": "cyberpunk",
        "author": "Jane",
        "resolution": "512x512",
        "trigger_phrase": "catstyle",
    }
    kind, _, data = metadata["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 256


def test_webui_s_sidecar_is_an_object_of_the_types_it_edits(exported: Make) -> None:
    made = exported()
    sidecar = json.loads(made.webui.with_suffix(".json").read_text(encoding="utf-8"))

    assert {key: type(value) for key, value in sidecar.items()} == {
        "description": str,
        "sd version": str,
        "activation text": str,
        "preferred weight": float,
        "negative text": str,
        "notes": str,
    }
    assert sidecar["sd version"] in {"SD1", "SD2", "SDXL", "Unknown"}
    assert 0 < sidecar["preferred weight"] <= 2


def test_no_other_file_is_taken_for_webui_s_own(exported: Make) -> None:
    """WebUI looks for STEM.json, STEM.txt, STEM.description.txt and one picture, by the stem of each LoRA."""
    made = exported()
    names = {path.name for path in made.folder.iterdir()}
    stems = {path.stem for path in made.folder.glob("*.safetensors")}

    taken = {f"{stem}{end}" for stem in stems for end in (".json", ".txt", ".description.txt")} & names
    pictures = {
        f"{stem}{mark}.{kind}"
        for stem in stems
        for mark in ("", ".preview")
        for kind in ("png", "jpg", "jpeg", "webp", "gif")
    } & names
    assert (taken, pictures) == ({"cyberpunk.json"}, {"cyberpunk.preview.png"})
