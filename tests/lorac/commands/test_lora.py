"""`lorac lora …` as people call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from runtime.human import wrapped
from runtime.lora_files.adapter import read
from runtime.safeio.digest import sha256_file
from tests.lorac.calling import Called, call
from tests.runtime.lora_files import cases

ROOT = Path(__file__).parents[3]
COMMANDS = ("inspect", "convert", "merge", "resize", "extract")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two LoRAs in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    for name, seed in (("a", 1), ("b", 2)):
        cases.write(
            tmp_path / f"{name}.safetensors",
            cases.kohya(seed=seed),
            {"ss_output_name": name, "ss_v2": "False"},
        )
    return tmp_path


def test_inspect_says_what_a_file_is() -> None:
    called = call("lora", "inspect", "a.safetensors", "--modules")

    assert (called.code, called.err) == (0, "")
    for words in ("style   kohya", "Stable Diffusion 1.x", "convolution 3×3", "Civitai AutoV3", "19 modules"):
        assert words in called.out


def test_of_a_run_s_folder_the_file_that_is_handed_out_is_inspected(folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    (folder / "a.safetensors").rename(run / "a.safetensors")
    cases.write(run / "pytorch_lora_weights.safetensors", cases.kohya(seed=3))
    (run / "a.lorac.json").write_text("{}")

    called = call("lora", "inspect", "run")

    assert called.out.splitlines()[0].startswith("run/a.safetensors  ")
    assert called.out.splitlines()[-1] == "also in run: pytorch_lora_weights.safetensors"


def test_inspect_at_80_columns_stays_inside_and_breaks_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = call("lora", "inspect", "a.safetensors").out.splitlines()
    sha256 = sha256_file(Path("a.safetensors"))

    assert [line.split()[-1] for line in lines if line.startswith("  sha256")] == [sha256]
    shown = "\n".join(wrapped(line, 80) for line in lines)
    assert max(map(len, shown.splitlines())) <= 80 and sha256 in shown


def test_inspect_as_json_has_everything() -> None:
    found = json.loads(call("lora", "inspect", "a.safetensors", "--json").out)

    assert found["style"] == "kohya" and len(found["modules"]) == 19
    assert found["modules"][0].keys() >= {"frobenius", "spectral", "rank", "alpha", "strength"}
    assert found["findings"] == []


def test_what_peft_trained_whole_is_told_with_its_sizes(tiny_lm: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    model = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.bfloat16)
    get_peft_model(model, config).save_pretrained("lora")
    table = model.lm_head.weight
    rows, width = table.shape

    said, found = call("lora", "inspect", "lora"), json.loads(call("lora", "inspect", "lora", "--json").out)
    merged = call("lora", "merge", "lora", "--base", str(tiny_lm), "out")

    line = f"{rows} × {width}  {rows * width:,} parameters  BF16"
    lines = " ".join(said.out.split("trained whole\n")[1].split())
    assert "lm_head.weight" in lines and lines.count(" ".join(line.split())) == 2
    assert "no adapter's" not in said.out and found["unknown"] == []
    assert {one["name"]: one["size"] for one in found["whole"]} == {
        name: 2 * table.numel() for name in ("lm_head.weight", "model.embed_tokens.weight")
    }
    assert "lm_head.weight is trained whole, which cannot be merged into a base" in merged.err


def test_convert_there_and_back_is_the_same_file_for_webui() -> None:
    for arguments in (
        ("a.safetensors", "d.safetensors", "--to", "diffusers"),
        ("d.safetensors", "p", "--to", "peft"),
        ("p", "k.safetensors", "--to", "kohya"),
    ):
        called = call("lora", "convert", *arguments)
        assert (called.code, called.err) == (0, "")

    assert cases.same(load_file("a.safetensors"), load_file("k.safetensors"))
    assert sorted(p.as_posix() for p in Path("p").rglob("*.json")) == [
        "p/text_encoder/adapter_config.json",
        "p/unet/adapter_config.json",
    ]


def test_merge_resize_and_what_they_say() -> None:
    merged = call("lora", "merge", "a.safetensors:0.8", "b.safetensors:-0.5", "sum.safetensors")
    resized = call("lora", "resize", "sum.safetensors", "small.safetensors", "--rank", "3")

    assert merged.out.startswith("2 LoRAs in 19 modules, rank 8\n") and merged.out.endswith(
        "wrote sum.safetensors\n"
    )
    assert (
        resized.out.startswith("19 modules, rank 8 -> 3\n") and "of the change's energy kept" in resized.out
    )
    one, two = (read(Path(f"{name}.safetensors")) for name in "ab")
    total = read(Path("sum.safetensors"))
    for place, change in cases.changes(total).items():
        wanted = cases.changes(one, 0.8)[place] + cases.changes(two, -0.5)[place]
        assert torch.allclose(change, wanted, atol=1e-5)


def test_a_base_is_merged_into_and_its_difference_extracted(tiny_base: Path, folder: Path) -> None:
    from runtime.lora_files.bases import opened
    from runtime.safeio.digest import sha256_file

    with opened(tiny_base, sha256_file) as model:
        shapes = {place: model.info(stored[0]).shape for place, stored in model.weights.items()}
    places = [(c, m, tuple(shapes[c, f"{m}.weight"])) for c, m, _ in cases.PLACES]
    cases.write(folder / "fit.safetensors", cases.kohya(places=places))

    merged = call("lora", "merge", "fit.safetensors:0.5", "--base", str(tiny_base), "tuned")
    again = call("lora", "merge", "fit.safetensors:0.5", "--base", str(tiny_base), "tuned")
    extracted = call("lora", "extract", str(tiny_base), "tuned", "back.safetensors", "--rank", "4")

    assert merged == Called(0, "19 weights of the base changed\nwrote tuned\n", "")
    assert (again.code, again.err.splitlines()[0]) == (2, "error: tuned: is there already")
    assert extracted.code == 0 and extracted.out.startswith("19 modules, rank 4, ")
    meant, found = (cases.changes(read(Path(f"{name}.safetensors"))) for name in ("fit", "back"))
    for place, change in found.items():
        assert (change - 0.5 * meant[place]).norm() < 0.05 * meant[place].norm()  # the base is in float16


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (
            ["merge", "a.safetensors", "out.safetensors"],
            2,
            [
                "error: give two LoRAs or more, or a --base to merge into",
                "hint: lorac lora merge --help shows the usage",
            ],
        ),
        (
            ["merge", "a.safetensors:much", "b.safetensors", "out.safetensors"],
            2,
            [
                "error: the weight of a.safetensors must be a number, got 'much'",
                "hint: lorac lora merge --help shows the usage",
            ],
        ),
        (
            ["resize", "a.safetensors", "out.safetensors"],
            2,
            ["error: give --rank or --energy", "hint: lorac lora resize --help shows the usage"],
        ),
        (
            ["resize", "a.safetensors", "b.safetensors", "--rank", "2"],
            2,
            [
                "error: b.safetensors: is there already and is not made of the same",
                "hint: give another place, or replace it with --force",
            ],
        ),
        (["inspect", "none.safetensors"], 3, ["error: none.safetensors: does not exist"]),
        (
            ["convert", "a.safetensors", "p.safetensors", "--to", "peft"],
            2,
            [
                "error: p.safetensors: must be a folder's name: PEFT's adapters are folders",
                "hint: write to p",
            ],
        ),
    ],
)
def test_a_mistake_is_a_line_and_a_hint(arguments: list[str], code: int, lines: list[str]) -> None:
    called = call("lora", *arguments)

    assert (called.code, called.out, called.err.splitlines()) == (code, "", lines)


@pytest.mark.parametrize(
    "arguments", [["lora"], *(["lora", name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = ['lorac', *{arguments!r}]\nfrom lorac.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print('heavy:', sorted({'torch', 'diffusers', 'transformers', 'peft', 'numpy', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "heavy: []"
