"""The peers' Python: this environment with TRL laid over it, so that all run on the very same torch and peft."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

TRL = "trl==1.16.0"
"""Its current release."""
REQUIREMENTS = (TRL, "gguf==0.19.0")
"""gguf is what transformers reads the base with."""


def python(folder: Path, constraints: Path) -> Path:
    """The interpreter, made in `folder` on the first call; nothing of this environment is changed."""
    executable: Path = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists() or done.read_text() != " ".join(REQUIREMENTS):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder], check=True)
        packages = next(folder.glob("lib/python3*/site-packages"))
        (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(executable), "-m", "pip", "install", "-q", "-c", str(constraints), *REQUIREMENTS]
        subprocess.run(install, check=True)
        done.write_text(" ".join(REQUIREMENTS))
    return executable
