"""What of this machine would stop a run, each with its mend: `lorac doctor`.

- Every check is one function that says what it found, or what is wrong and what to do; none changes anything.
- The smoke run trains one step of a random model of some MB by the runtime itself, as `lorac run` would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import attrs
import psutil
from packaging.requirements import Requirement

from lorac.places import cache_folder
from runtime.human import size

LITTLE_DISK = 5 * 2**30
"""Free bytes below which a run of a usual base has no room for its cache and checkpoints."""
LITTLE_MEMORY = 4 * 2**30
"""Available bytes of main memory below which a usual base cannot be read."""


@attrs.frozen
class Finding:
    """What one check found. `mend` is what to do where something is wrong, empty where nothing is."""

    check: str
    found: str
    mend: str = ""

    @property
    def is_well(self) -> bool:
        return not self.mend


def examine(root: Path) -> Iterator[Finding]:
    """Every check in turn, for a run started in `root`; the slow ones last."""
    yield python()
    yield from packages()
    yield memory()
    for what, place in (("output", root / "output"), ("cache", cache_folder())):
        yield folder(what, place)
    yield card()
    yield threads()
    yield smoke()


def python() -> Finding:
    said = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", said, "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer")


def packages() -> Iterator[Finding]:
    """lorac's own requirements, as its package states them; extras only where something of them is installed."""
    wanted = [Requirement(line) for line in requires("lorac") or ()]
    bad = []
    for one in wanted:
        needed = one.marker is None or one.marker.evaluate({"extra": ""})
        try:
            here = version(one.name)
        except PackageNotFoundError:
            if needed:
                bad.append(Finding(one.name, "is not installed", f"pip install '{one.name}{one.specifier}'"))
            continue
        if not one.specifier.contains(here, prereleases=True):
            bad.append(
                Finding(
                    one.name,
                    f"{here}, but lorac needs {one.specifier}",
                    f"pip install -U '{one.name}{one.specifier}'",
                )
            )
    names = ("torch", "diffusers", "transformers", "peft")
    yield from bad
    if not bad:
        yield Finding("packages", ", ".join(f"{name} {version(name)}" for name in names))


def memory() -> Finding:
    seen = psutil.virtual_memory()
    said = f"{size(seen.available)} of {size(seen.total)} available"
    mend = "close other programs" if seen.available < LITTLE_MEMORY else ""
    return Finding("memory", said, mend)


def folder(what: str, place: Path) -> Finding:
    """Whether files can be made and renamed there, and how much room there is."""
    there = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(what, f"{there} cannot be written to", f"give yourself the right: chmod u+rwx {there}")
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".lorac-doctor-") as made:
            (Path(made) / "a").write_bytes(b"x")
            (Path(made) / "a").rename(Path(made) / "b")
    except OSError as error:
        return Finding(
            what, f"{there}: {error.strerror}", "run lorac in a folder on a local disk that has room"
        )
    free = shutil.disk_usage(there).free
    mend = f"free {size(LITTLE_DISK - free)} there" if free < LITTLE_DISK else ""
    return Finding(what, f"{there}: {size(free)} free", mend)


def card() -> Finding:
    """The GPU as torch sees it; the driver as its own tool does."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Finding(
            "card",
            f"{name}: {size(free)} of {size(total)} free, driver {_driver()}, CUDA {torch.version.cuda}",
        )
    if not shutil.which("nvidia-smi"):
        return Finding("card", "no NVIDIA driver here: runs go on the CPU")
    if torch.version.cuda is None:
        return Finding(
            "card",
            "a driver is here, but this torch is built for the CPU alone",
            "pip install a torch with CUDA",
        )
    hint = "update the driver, or pip install a torch for the CUDA that `nvidia-smi` names"
    return Finding(
        "card", f"driver {_driver()} is here, but torch (CUDA {torch.version.cuda}) finds no card", hint
    )


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip() or "unknown"


def threads() -> Finding:
    """Whether the CPU was measured: only then are seconds in plans for it its own."""
    from lorac.estimate.cards import calibration_path

    if calibration_path("cpu").exists():
        return Finding("speed", f"{os.cpu_count()} threads; measured: {calibration_path('cpu')}")
    return Finding(
        "speed",
        f"{os.cpu_count()} threads; not measured: `lorac calibrate` makes a plan's seconds this machine's",
    )


SMOKE = """
import sys
from pathlib import Path
from PIL import Image
from runtime.families import family
folder = Path(sys.argv[1])
family("sd1").tiny(folder / "base")
(folder / "data").mkdir()
Image.new("RGB", (64, 64), "red").save(folder / "data" / "red.png")
(folder / "data" / "metadata.csv").write_text("image,prompt\\nred.png,red\\n")
(folder / "spec.py").write_text('''
from lorac import Experiment, Fit, Images, LoRA, Train
experiment = Experiment(name="smoke", base="base", data=Images("data", resolution=64), adapter=LoRA(rank=2),
                        train=Train(effective_batch=1, steps=1), fit=Fit(card={card!r}))
'''.format(card=sys.argv[2]))
"""
"""Makes a random base, a picture and a spec. In a process of its own: what torch keeps goes with it."""


def smoke(run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> Finding:
    """One step trained, from a spec to the finished LoRA, on the card where there is one."""
    import torch

    device = "auto" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="lorac-doctor-") as made:
        place = {"cwd": made, "capture_output": True, "text": True, "timeout": 600}
        environment = {**os.environ, "LORAC_CACHE": str(Path(made) / "cache")}
        done = run([sys.executable, "-P", "-c", SMOKE, made, device], **place)
        if done.returncode == 0:
            done = run([sys.executable, "-P", "-m", "lorac", "run", "spec.py"], env=environment, **place)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["it ended without a word"]
            return Finding(
                "smoke run",
                said[0].removeprefix("error: "),
                (said[1:] or ["see above"])[0].removeprefix("hint: "),
            )
    return Finding(
        "smoke run", f"one step trained on the {'card' if device == 'auto' else 'CPU'}, and a LoRA written"
    )
