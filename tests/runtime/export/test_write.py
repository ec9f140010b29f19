"""The exported folder as a whole: what is in it, that it is whole, that nothing of another plan is lost."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from runtime.errors import DivergedError, LoracError, MachineError, SpecError
from runtime.export import manifest as manifest_file
from runtime.export import write
from runtime.plan import Plan
from runtime.safeio import atomic, safetensors
from tests.runtime.export import cases

ROOT = Path(__file__).parents[3]
FILES = [
    "cyberpunk.json",
    "cyberpunk.lorac.json",
    "cyberpunk.preview.png",
    "cyberpunk.safetensors",
    "pytorch_lora_weights.safetensors",
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def export(folder: Path, trained: cases.Trained, plan: Plan) -> write.Manifest:
    return write.export(folder, trained, plan, cases.facts(), [cases.picture()])


def test_all_files_are_written_and_nothing_else(tmp_path: Path, trained: cases.Trained, plan: Plan) -> None:
    export(tmp_path / "new" / "out", trained, plan)

    assert names(tmp_path / "new" / "out") == FILES


def test_without_pictures_there_is_no_preview(tmp_path: Path, trained: cases.Trained, plan: Plan) -> None:
    manifest = write.export(tmp_path, trained, plan, cases.facts(), [])

    assert names(tmp_path) == [name for name in FILES if "preview" not in name]
    assert "modelspec.thumbnail" not in safetensors.read_header(tmp_path / "cyberpunk.safetensors").metadata
    assert "cyberpunk.preview.png" not in [file.name for file in manifest.files]


def test_the_manifest_reads_back_and_tells_the_truth(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    manifest = export(tmp_path, trained, plan)

    assert manifest_file.read(tmp_path / "cyberpunk.lorac.json") == manifest
    assert [file.name for file in manifest.files] == [
        "cyberpunk.safetensors",
        "cyberpunk.json",
        "cyberpunk.preview.png",
        "pytorch_lora_weights.safetensors",
    ]
    for file in manifest.files:
        data = (tmp_path / file.name).read_bytes()
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    whole = (tmp_path / "cyberpunk.safetensors").read_bytes()
    body = whole[8 + int.from_bytes(whole[:8], "little") :]
    assert manifest.hashes.civitai_autov2 == hashlib.sha256(whole).hexdigest()[:10]
    assert manifest.hashes.civitai_autov3 == hashlib.sha256(body).hexdigest()[:12]
    assert manifest.hashes.webui_shorthash == hashlib.sha256(body).hexdigest()[:12]
    assert manifest.plan_hash == manifest.again.plan_hash == plan.plan_hash
    assert manifest.usage.example == "<lora:cyberpunk:0.8> catstyle"
    assert manifest.made.modules == {"unet": 192, "text_encoder": 12}
    assert {verdict.loads for verdict in manifest.consumers} == {"loads"}
    assert {(v.consumer, v.folder) for v in manifest.consumers if v.folder} == {
        ("Stable Diffusion WebUI (AUTOMATIC1111)", "models/Lora"),
        ("Forge", "models/Lora"),
        ("sd-webui-additional-networks", "extensions/sd-webui-additional-networks/models/lora"),
        ("ComfyUI", "models/loras"),
    }


def test_a_metric_that_is_not_finite_is_noted_and_costs_nothing(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    facts = cases.facts(metrics={"style": float("nan"), "clip": 0.5}, notes=("one",))

    run = write.export(tmp_path, trained, plan, facts, []).run

    assert (run.metrics, run.notes) == ({"clip": 0.5}, ("one", "style is not a finite number"))


def test_the_sidecar_is_what_webui_edits(tmp_path: Path, trained: cases.Trained, plan: Plan) -> None:
    export(tmp_path, trained, plan)

    assert json.loads((tmp_path / "cyberpunk.json").read_text(encoding="utf-8")) == {
        "description": "Neon — cats.",
        "sd version": "SD1",
        "activation text": "catstyle",
        "preferred weight": 0.8,
        "negative text": "blurry",
        "notes": "Two lines\nof notes",
    }


def test_the_preview_is_the_first_picture_and_carries_no_text(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    write.export(tmp_path, trained, plan, cases.facts(), [cases.picture(), cases.picture(8, 8)])

    data = (tmp_path / "cyberpunk.preview.png").read_bytes()
    shown = Image.open(io.BytesIO(data))
    assert (shown.size, shown.info) == ((640, 320), {})
    assert b"secret" not in data


def test_the_same_plan_gives_the_same_bytes_in_another_process(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    export(tmp_path / "here", trained, plan)
    code = (
        "import sys, pathlib\n"
        "from runtime.export import write\n"
        "from tests.runtime.export import cases\n"
        "trained = cases.weights(cases.small())\n"
        "facts = cases.facts(started_at='2030-01-01T00:00:00Z', seconds=1.0)\n"
        "write.export(pathlib.Path(sys.argv[1]), trained, cases.a_plan(trained), facts, [cases.picture()])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, cwd=ROOT)

    for name in FILES:
        same = (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
        assert same == (name != "cyberpunk.lorac.json"), name


def test_no_file_names_a_path_of_the_machine(tmp_path: Path, trained: cases.Trained, plan: Plan) -> None:
    export(tmp_path, trained, plan)

    for name in FILES:
        data = (tmp_path / name).read_bytes()
        assert b"jane/" not in data and str(tmp_path).encode() not in data, name


def test_the_files_hold_the_weights_in_the_dtype_asked_for(tmp_path: Path, trained: cases.Trained) -> None:
    for dtype, expected in [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]:
        folder = tmp_path / dtype
        export(folder, trained, cases.a_plan(trained, dtype=dtype))
        for name in ("cyberpunk.safetensors", "pytorch_lora_weights.safetensors"):
            assert {tensor.dtype for tensor in load_file(folder / name).values()} == {expected}


def test_a_weight_that_is_not_finite_leaves_the_folder_as_it_was(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    spoiled = {component: dict(modules) for component, modules in trained.items()}
    name = next(iter(spoiled["unet"]))
    parts = spoiled["unet"][name]
    spoiled["unet"][name] = {**parts, "B": parts["B"].index_fill(0, torch.tensor(0), float("nan"))}

    with pytest.raises(DivergedError) as caught:
        export(tmp_path, spoiled, plan)

    key = f"lora_unet_{name.replace('.', '_')}.lora_up.weight"
    size = parts["B"].numel()
    assert f"4 of {size:,} values of {key} are not finite" in caught.value.lines()[0]
    assert names(tmp_path) == []


def test_a_value_too_large_for_fp16_is_refused(tmp_path: Path, trained: cases.Trained) -> None:
    huge = {c: {m: {**ab, "B": ab["B"] * 1e6} for m, ab in modules.items()} for c, modules in trained.items()}

    with pytest.raises(DivergedError):
        export(tmp_path, huge, cases.a_plan(huge))
    assert names(tmp_path) == []


def test_weights_that_are_not_the_planned_ones_are_a_bug(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    with pytest.raises(
        ValueError, match=r"components are \['unet'\], planned are \['text_encoder', 'unet'\]"
    ):
        export(tmp_path, {"unet": trained["unet"]}, plan)


def test_the_same_plan_may_be_exported_again(tmp_path: Path, trained: cases.Trained, plan: Plan) -> None:
    first = export(tmp_path, trained, plan)

    assert export(tmp_path, trained, plan) == first
    assert names(tmp_path) == FILES


def test_files_of_another_plan_are_never_overwritten(
    tmp_path: Path, trained: cases.Trained, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path, trained, cases.a_plan(trained, adapter_alpha=1.0))
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SpecError) as caught:
        export(tmp_path, trained, plan)

    assert caught.value.lines() == [
        "error: cyberpunk.lorac.json: is there already and is not of this plan",
        "error: cyberpunk.safetensors: is there already and is not of this plan",
        "error: pytorch_lora_weights.safetensors: is there already and is not of this plan",
        "error: cyberpunk.json: is there already and is not of this plan",
        "error: cyberpunk.preview.png: is there already and is not of this plan",
        "hint: give the experiment another name or output folder, or move the old files away",
    ]
    assert before == {name: (tmp_path / name).read_bytes() for name in FILES}
    assert names(tmp_path) == FILES


@pytest.mark.parametrize("name", ["cyberpunk.json", "cyberpunk.safetensors", "cyberpunk.lorac.json"])
def test_a_file_that_is_not_lorac_s_is_never_overwritten(
    tmp_path: Path, trained: cases.Trained, plan: Plan, name: str
) -> None:
    (tmp_path / name).write_text("mine")

    with pytest.raises(SpecError, match="is there already and is not of this plan"):
        export(tmp_path, trained, plan)
    assert names(tmp_path) == [name] and (tmp_path / name).read_text() == "mine"


def test_a_damaged_file_of_this_plan_is_mended(tmp_path: Path, trained: cases.Trained, plan: Plan) -> None:
    manifest = export(tmp_path, trained, plan)
    (tmp_path / "cyberpunk.safetensors").write_bytes(b"rot")

    assert export(tmp_path, trained, plan) == manifest


def test_a_folder_in_the_way_is_named_before_anything_is_written(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    (tmp_path / "cyberpunk.json").mkdir()

    with pytest.raises(SpecError, match=r"cyberpunk\.json: is there already"):
        export(tmp_path, trained, plan)
    assert names(tmp_path) == ["cyberpunk.json"]


@pytest.mark.parametrize("fail_at", range(1, 6))
def test_a_disk_that_fails_in_any_write_leaves_the_old_files(
    tmp_path: Path, trained: cases.Trained, plan: Plan, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    export(tmp_path, trained, plan)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    real, calls = atomic.os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2 * fail_at - 1:  # each write syncs its file, then its folder
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(MachineError):
        export(tmp_path, trained, plan)

    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_crash_between_the_renames_leaves_no_manifest_and_is_put_right(
    tmp_path: Path, trained: cases.Trained, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path, trained, plan)
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == tmp_path / "pytorch_lora_weights.safetensors":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, trained, plan)
    monkeypatch.undo()
    assert "cyberpunk.lorac.json" not in names(tmp_path)

    export(tmp_path, trained, plan)
    assert names(tmp_path) == FILES


def test_what_reads_back_wrong_is_not_put_in_place(
    tmp_path: Path, trained: cases.Trained, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = safetensors.write

    def write_one_bit_off(path: Path, tensors: object, metadata: object, **limits: int) -> None:
        real(path, tensors, metadata, **limits)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(safetensors, "write", write_one_bit_off)
    with pytest.raises(MachineError) as caught:
        export(tmp_path, trained, plan)
    assert caught.value.lines() == [
        "error: cyberpunk.safetensors: does not read back as it was written; nothing was put in place",
        "hint: check the disk, then run again",
    ]
    assert names(tmp_path) == []


def test_a_checkpoint_s_file_is_called_by_its_own_name(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    path = tmp_path / f"{write.checkpoint_name(plan, 50)}.safetensors"
    path.write_bytes(write.lora_bytes(plan, trained, 50))

    metadata = safetensors.read_header(path).metadata
    assert path.name == "cyberpunk-000050.safetensors"
    for key in ("ss_output_name", "modelspec.title"):
        assert metadata[key] == "cyberpunk-000050"
    assert metadata["ss_steps"] == "50"


def test_finished_names_the_lora_only_while_every_file_is_whole(
    tmp_path: Path, trained: cases.Trained, plan: Plan
) -> None:
    assert write.finished(tmp_path, plan) is None
    export(tmp_path, trained, plan)
    assert write.finished(tmp_path, plan) == tmp_path / "cyberpunk.safetensors"
    assert write.finished(tmp_path, cases.a_plan(trained, adapter_alpha=1.0)) is None

    (tmp_path / "cyberpunk.json").write_text("{}")
    assert write.finished(tmp_path, plan) is None
    (tmp_path / "cyberpunk.json").unlink()
    assert write.finished(tmp_path, plan) is None


def test_a_name_that_no_prompt_can_call_is_refused_before_writing(
    tmp_path: Path, trained: cases.Trained
) -> None:
    with pytest.raises(LoracError) as caught:
        export(tmp_path, trained, cases.a_plan(trained, name="../evil"))
    assert caught.value.lines() == [
        "error: name: must not contain '/': prompts and file systems give it a meaning, got '../evil'",
        "hint: give the experiment another name",
    ]
    assert names(tmp_path) == []
