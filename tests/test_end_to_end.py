"""From a spec to a LoRA in the WebUI's folder, through the command line alone, each command a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = """\
from lorac import Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="tiny",
    base={base!r},
    data=Images("pictures", resolution=64),
    adapter=LoRA(rank=4),
    train=Train(effective_batch=2, steps=3),
    fit=Fit(card="cpu"),
    samples=Samples(prompts=("noise",), steps=1),
    outputs=Outputs(save_steps=2),
)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    """A folder with a spec and pictures; the base lies elsewhere."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_data, folder / "pictures")
    (folder / "tiny.py").write_text(SPEC.format(base=str(tiny_base)), encoding="utf-8")
    return folder


def lorac(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lorac", *arguments], cwd=project, capture_output=True, text=True, timeout=240
    )


def test_a_spec_becomes_a_lora_that_is_installed_and_a_changed_picture_refuses_the_old_plan(
    project: Path,
) -> None:
    ran = lorac(project, "run", "tiny.py")
    assert ran.returncode == 0, ran.stderr
    first, *lines = ran.stdout.splitlines()
    assert first.startswith("Planned generated/tiny/plan.json: 3 steps, about ")
    assert "[INFO] Injected LoRA adapters with rank=4 in 96 modules" in lines
    assert "[INFO] Training started... total steps: 3" in lines
    manifest = json.loads((project / "output/tiny/tiny.lorac.json").read_text(encoding="utf-8"))
    plan = json.loads((project / "generated/tiny/plan.json").read_text(encoding="utf-8"))
    assert manifest["plan_hash"] == plan["plan_hash"]

    (project / "ui" / "modules").mkdir(parents=True)
    (project / "ui" / "launch.py").touch()
    installed = lorac(project, "install", "tiny", "--webui", "ui")
    assert (installed.returncode, installed.stderr) == (0, "")
    assert installed.stdout.endswith("call it: in the prompt: <lora:tiny:0.8>\n")
    there = project / "ui/models/Lora"
    assert (there / "tiny.safetensors").read_bytes() == (
        project / "output/tiny/tiny.safetensors"
    ).read_bytes()

    again = lorac(project, "run")
    assert again.stdout.startswith("Running generated/tiny/plan.json, the newest plan in generated/\n")
    assert "[INFO] Already complete: " in again.stdout

    with (project / "pictures/0.png").open("ab") as picture:
        picture.write(b"x")
    stale = lorac(project, "run", "generated/tiny")
    assert stale.returncode == 4
    assert stale.stderr.splitlines()[0] == "error: pictures/0.png: changed since planning"
