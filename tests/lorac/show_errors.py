"""What malformed specs, data folders, plans, configs and LoRA files end in; `just show-errors` prints it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.lorac.bad_data import make_bad_data
from tests.lorac.bad_files import CASES, arguments, make_bad_files
from tests.lorac.calling import Called, call

ROOT = Path(__file__).parents[2]
BAD_SPECS = Path("tests") / "lorac" / "bad_specs"

SPEC = """\
from lorac import Experiment, Fit, Images

experiment = Experiment(
    name="bad",
    base={base!r},
    data=Images({data!r}, resolution=64),
    fit=Fit(card="12GB"),
)
"""


def malformed_specs() -> Iterator[tuple[str, Called, list[str]]]:
    """Each malformed spec's path, how planning it ended, and the lines it had to end in."""
    with contextlib.chdir(ROOT):
        for path in sorted(BAD_SPECS.glob("*.py")):
            wanted = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
            yield path.as_posix(), call("plan", path.as_posix()), wanted


def malformed_data(folder: Path, base: Path) -> Iterator[tuple[str, Called, list[str]]]:
    """The same of malformed data folders, which are made in `folder`, with a spec for each."""
    for name, wanted in make_bad_data(folder).items():
        (folder / f"{name}.py").write_text(SPEC.format(base=str(base), data=name), encoding="utf-8")
        with contextlib.chdir(folder):
            yield name, call("plan", f"{name}.py"), wanted


def malformed_files(folder: Path) -> Iterator[tuple[str, Called, Called]]:
    """The arguments of commands that are given a broken file each, which are made in `folder`; how they ended, and
    had to end."""
    make_bad_files(folder)
    for name, case in CASES.items():
        wanted = Called(case.code, "", "".join(f"{line}\n" for line in case.lines))
        with contextlib.chdir(folder):
            yield " ".join(arguments(name)), call(*arguments(name)), wanted


def main() -> None:
    """Print every call with its message and exit code."""
    from runtime.families import sd1

    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LORAC_CACHE"] = str(Path(temporary, "cache"))
        base = sd1.tiny(Path(temporary, "base"))
        data = Path(temporary, "data")
        data.mkdir()
        for cases in (malformed_specs(), malformed_data(data, base)):
            for name, called, _ in cases:
                print(f"$ lorac plan {name}\n{called.err}exit code {called.code}\n")
        files = Path(temporary, "files")
        files.mkdir()
        for words, called, _ in malformed_files(files):
            print(f"$ lorac {words}\n{called.err}exit code {called.code}\n")


if __name__ == "__main__":
    main()
