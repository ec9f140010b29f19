"""The peers' Pythons: this environment with a peer laid over it, so that all run on the very same torch.

LitGPT wants an older huggingface-hub than transformers 5 does, so it has an environment of its own.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

TRL = "trl==1.16.0"
LITGPT = "litgpt==0.5.13"
"""Their current releases."""
PEERS = (TRL, "gguf==0.19.0")
"""gguf is what transformers reads the base with."""
LITGPT_ALONE = (LITGPT, "transformers==4.56.2")
"""The newest transformers of LitGPT's extra `extra`; torchmetrics, which LitGPT uses, imports it where it can."""


def python(folder: Path, requirements: tuple[str, ...], constraints: Path | None = None) -> Path:
    """The interpreter, made in `folder` on the first call; nothing of this environment is changed."""
    executable: Path = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists() or done.read_text() != " ".join(requirements):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder], check=True)
        packages = next(folder.glob("lib/python3*/site-packages"))
        (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(executable), "-m", "pip", "install", "-q", *requirements]
        install += ["-c", str(constraints)] if constraints else []
        subprocess.run(install, check=True)
        done.write_text(" ".join(requirements))
    return executable
