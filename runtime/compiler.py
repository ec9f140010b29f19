"""The C++ compiler that torch compiles a step's blocks with (`runtime.compiled`): is there one, and which. No torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

NAME = "c++"
"""What the compiler is called among a plan's versions."""

MISSING = "no C++ compiler with Python's headers"
INSTALL = "install g++ and Python's headers (on Debian: apt install g++ python3-dev), or plan with Fit(compile=False)"


def version() -> str:
    """The first line of what the compiler says of itself; empty where it, or Python's headers, are missing."""
    return _version(os.environ.get("CXX", "g++"))  # as torch finds it: `cpp.cxx` of torch._inductor.config


@cache
def _version(command: str) -> str:
    found = shutil.which(command)
    if found is None or not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return ""
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (said.stdout.splitlines() or [""])[0].strip()
