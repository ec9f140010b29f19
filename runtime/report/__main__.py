"""`python -m runtime.report RUN`: write a run's report.html."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from runtime.ending import ended
from runtime.report import page
from runtime.safeio import paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and say where it is; with --open, show it."""
    parser = argparse.ArgumentParser(prog="python -m runtime.report", allow_abbrev=False)
    parser.add_argument("run", type=Path, help="a run's folder, finished or not")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    return ended(lambda: _written(options.run, options.open), lambda: options.debug)


def _written(run: Path, show: bool) -> None:
    path = page.write(run)
    sys.stdout.write(f"wrote {paths.display(path)}\n")
    if show:
        webbrowser.open(path.resolve().as_uri())


if __name__ == "__main__":
    sys.exit(main())
