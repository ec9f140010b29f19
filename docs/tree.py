"""The tree in README.md, made from the first line of each module's docstring. `just generate` writes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- tree: made by just generate -->\n```\n", "```\n<!-- end of tree -->\n"

TOP = {
    "specs": "users' experiments; each example here is tested and has golden plans",
    "lorac": "the compiler: spec -> plan. Imports runtime. Never trains",
    "runtime": "the executor: plan -> adapter. Never imports lorac, never sees a spec",
    "generated": "what `just generate` writes from specs/: golden plans and launch scripts, held by a test",
    "tests": "mirrors lorac/ and runtime/; attacks/ has hostile files, consumers/ others' loading rules",
    "docs": "the log of measured choices, the demo's contact sheet, what makes this tree",
}


def tree() -> str:
    """A line for each room and each file of the two packages."""
    lines = []
    for name, words in TOP.items():
        lines.append(f"{name + '/':<21}{words}")
        if name in ("lorac", "runtime"):
            lines += _rooms(ROOT / name)
    return "\n".join(lines) + "\n"


def with_tree(readme: str) -> str:
    """The README with its tree made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{tree()}{END}{after}"


def _rooms(package: Path) -> Iterator[str]:
    for path in sorted(package.iterdir()):
        if (path / "__init__.py").is_file():
            yield f"  {path.name + '/':<19}{_summary(path / '__init__.py')}"
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield f"  {path.name:<19}{_summary(path)}"


def _summary(path: Path) -> str:
    """The first sentence of the docstring's first line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"\.(?: (?=[A-Z])|$)", docstring.partition("\n")[0])[0]


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tree(readme.read_text(encoding="utf-8")), encoding="utf-8")
