"""`python -m runtime.verify RUN`: is every byte of a finished run what its manifest and its plan say?

What was written is hashed again: the exported files, each checkpoint's, the plan's program. What it was made of, too,
where it is still here: the base and the data. Nothing is loaded and nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

from runtime import plan
from runtime.ending import ended
from runtime.errors import InputError, LoracError, OtherFormat, PlanError, Problem, visible
from runtime.export import manifest as manifests
from runtime.export.manifest import SUFFIX, Manifest
from runtime.human import fitted, size
from runtime.preflight import base_problems, data_problems, parts_of
from runtime.safeio import digest, paths, strict_json

_T = TypeVar("_T")


@attrs.frozen
class Checked:
    """One thing that was looked at. `wrong` says what is wrong with it, empty where nothing is; `note` more; `hint`
    what to do where it is not damaged."""

    what: str
    wrong: str = ""
    note: str = ""
    hint: str = ""


def manifest_of(run: Path) -> tuple[Manifest, Path]:
    """A finished run's manifest. Raises InputError where the folder holds none, or several."""
    found = sorted(run.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        what = "holds no manifest: the run did not end" if not found else f"holds {len(found)} manifests"
        raise InputError(Problem(paths.display(run), what, "give the folder of a finished run"))
    return manifests.read(found[0]), found[0]


def verify(run: Path) -> Iterator[Checked]:
    """Everything there is to check, in the order of the folder."""
    from runtime import checkpoint  # torch comes with it

    manifest, _ = manifest_of(run)
    made = _told(lambda: plan.read(run / "plan.json"))
    if isinstance(made, Checked):
        yield attrs.evolve(made, what="plan.json")
    elif made.plan_hash != manifest.plan_hash:
        yield Checked(
            "plan.json",
            f"is another plan, {made.plan_hash[:12]}; the manifest says {manifest.plan_hash[:12]}",
        )
    else:
        yield Checked("plan.json", note=made.plan_hash[:12])
    for file in manifest.files:
        yield _file(run, file.name, file.sha256, file.size)
    for folder in checkpoint.whole(run / "checkpoints"):
        yield from _checkpoint(folder, manifest.plan_hash)
    if isinstance(made, Checked):
        yield Checked("the base and the data", note="not checked: the plan says what they were")
    else:
        places, program = made.outputs.places, made.program
        elsewhere = parts_of(places)
        yield _input(
            Path(places.base), "the base", lambda place: base_problems(program.base, place, elsewhere)
        )
        yield _input(Path(places.data), "the data", lambda place: data_problems(program.data, place))


def _file(folder: Path, name: str, sha256: str, length: int | None = None) -> Checked:
    path, shown = paths.inside(folder, name, error=InputError), f"{folder.name}/{name}"
    if not path.is_file():
        return Checked(shown, "is gone")
    if length is not None and path.stat().st_size != length:
        return Checked(shown, f"has {path.stat().st_size} bytes, and was written with {length}")
    if digest.sha256_file(path) != sha256:
        return Checked(shown, "is not what was written: its sha256 differs")
    return Checked(shown, note=size(path.stat().st_size))


def _checkpoint(folder: Path, plan_hash: str) -> Iterator[Checked]:
    from runtime import checkpoint

    receipt = _told(lambda: checkpoint.receipt(folder))
    if isinstance(receipt, Checked):
        yield attrs.evolve(receipt, what=f"{folder.name}/{checkpoint.DONE}")
        return
    if receipt.plan_hash != plan_hash:
        yield Checked(folder.name, "is of another plan")
    for name, sha256 in receipt.files.items():
        yield _file(folder, name, sha256)


def _input(place: Path, what: str, problems: Callable[[Path], list[Problem]]) -> Checked:
    if not place.exists():
        return Checked(what, note=f"not here ({paths.display(place)}): not checked")
    found = _told(lambda: problems(place))
    if isinstance(found, Checked):
        return attrs.evolve(found, what=what)
    return Checked(what, "; ".join(map(str, found[:5])), "" if found else paths.display(place))


def _told(read: Callable[[], _T]) -> _T | Checked:
    """What was read, or what is wrong with it."""
    try:
        return read()
    except OtherFormat as error:
        (problem,) = error.problems
        return Checked("", problem.what, hint=problem.hint)
    except LoracError as error:
        return Checked("", str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each thing; exit code 3 where one is wrong, 4 where only the plan is another lorac's."""
    parser = argparse.ArgumentParser(prog="python -m runtime.verify", allow_abbrev=False)
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    return ended(lambda: _show(options.run, options.json), lambda: options.debug)


def _show(run: Path, as_json: bool) -> None:
    found = list(verify(run))
    wrong = [one for one in found if one.wrong]
    if as_json:
        sys.stdout.write(strict_json.canonical([attrs.asdict(one) for one in found]))
    else:
        lines = [f"{'WRONG' if one.wrong else 'ok':5} {one.what}: {one.wrong or one.note}" for one in found]
        lines.append(f"{len(found) - len(wrong)} of {len(found)} are as they were written")
        sys.stdout.write("".join(f"{fitted(visible(line), sys.stdout)}\n" for line in lines))
    if wrong:
        damaged = "take the damaged files from a copy, or make the run again: lorac reproduce RUN"
        error = PlanError if all(one.hint for one in wrong) else InputError
        raise error([Problem(one.what, one.wrong, one.hint or damaged) for one in wrong])


if __name__ == "__main__":
    sys.exit(main())
