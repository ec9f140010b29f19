"""Who may import whom, and what no file may do: read from the source, so that nothing has to run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from runtime.families import FAMILIES

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT)
    for room in ("lorac", "runtime", "specs", "tests")
    for path in (ROOT / room).rglob("*.py")
    if "__pycache__" not in path.parts
)
OURS = [path for path in FILES if path.parts[0] in ("lorac", "runtime")]
LONGEST = 450

ANYWHERE = {"runtime.errors", "runtime.human", "runtime.plan", "runtime.safeio"}
"""What all of lorac may import of runtime."""

ONLY_IN = {
    "runtime.adapters": {"lorac/estimate", "lorac/resolve.py", "lorac/resolve_adapter.py"},
    "runtime.average": {"lorac/estimate"},
    "runtime.evaluate": {"lorac/estimate"},
    "runtime.evaluation": {"lorac/advice"},
    "runtime.compiled": {"lorac/estimate"},
    "runtime.compiler": {"lorac/compile.py", "lorac/compiled.py", "lorac/estimate"},
    "runtime.data": {
        "lorac/caption_tables.py",
        "lorac/check",
        "lorac/data_lock.py",
        "lorac/estimate",
        "lorac/text_lock.py",
    },
    "runtime.dtypes": {"lorac/commands", "lorac/estimate"},
    "runtime.encoders": {"lorac/estimate"},
    "runtime.ending": {"lorac/cli.py"},
    "runtime.families": {
        "lorac/check",
        "lorac/compiled.py",
        "lorac/estimate",
        "lorac/importers",
        "lorac/resolve.py",
        "lorac/resolve_adapter.py",
        "lorac/resolve_objective.py",
        "lorac/resolve_outputs.py",
        "lorac/text_lock.py",
        "lorac/tiling.py",
    },
    "runtime.lora_files": {"lorac/advice", "lorac/commands", "lorac/lora_text.py"},
    "runtime.names": {
        "lorac/agree.py",
        "lorac/agree_words.py",
        "lorac/importers",
        "lorac/resolve_adapter.py",
        "lorac/spec_adapter.py",
    },
    "runtime.optimizers": {"lorac/estimate"},
    "runtime.plan_data": {"lorac/agree.py"},
    "runtime.report": {"lorac/advice", "lorac/figures.py"},
    "runtime.sampling": {"lorac/sweep.py"},
    "runtime.sharding": {"lorac/estimate"},
    "runtime.sheet": {"lorac/advice", "lorac/sweep.py"},
    "runtime.step": {"lorac/estimate"},
    "runtime.text": {"lorac/estimate", "lorac/text_lock.py"},
    "runtime.tiles": {"lorac/estimate", "lorac/search.py", "lorac/tiling.py"},
}
"""What else it imports, and which files or folders do: the families, which layers take an adapter, the train step that
the trace runs, dtypes, tiles, and how much of what is encoded stays in memory."""

LIBRARY_ONLY_IN = {"ray": {"lorac/on_ray.py"}}
"""Libraries that are a choice of the user's, and the files that know them."""

RUNS_CODE = {"lorac/load.py": {"compile", "exec"}}
"""Files that may call what runs code: the user's own spec is run because he asked for it."""

LIGHT = [
    "lorac",
    "lorac.cli",
    "lorac.commands",
    "lorac.load",
    "lorac.reference",
    "lorac.launch",
    "lorac.diff",
    "lorac.render",
]
"""What the command line imports for help, for a wrong spec, and for looking at plans."""

LOOKING = [
    "runtime.report.page",
    "runtime.report.watch",
    "runtime.report.compare",
    "runtime.verify",
    "runtime.reproduce",
]
"""What is imported for a run's page, and before a run is checked: pictures are read for a page, nothing is computed."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports; of `from a import b` it is a.b where that is a module, else a."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.with_suffix("").parts[: -node.level]
                module = ".".join([*package, *filter(None, [module])])
            for alias in node.names:
                inner = ROOT / module.replace(".", "/") / alias.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{module}.{alias.name}" if is_module else module


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def calls(path: Path) -> Iterator[str]:
    """The dotted names that a file calls."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func)


def room(module: str) -> str:
    """The part of runtime that a module is in: its first two names."""
    return ".".join(module.split(".")[:2])


# --------------------------------------------------------------------------------------------- who calls whom


@pytest.mark.parametrize("path", [p for p in OURS if p.parts[0] == "runtime"], ids=str)
def test_runtime_never_imports_lorac(path: Path) -> None:
    assert [name for name in imports(path) if name.split(".")[0] in ("lorac", "specs", "tests")] == []


def test_lorac_imports_of_runtime_only_what_is_listed_here() -> None:
    found: dict[str, set[str]] = {}
    for path in OURS:
        if path.parts[0] == "lorac":
            for name in imports(path):
                if name.split(".")[0] == "runtime" and room(name) not in ANYWHERE:
                    found.setdefault(room(name), set()).add("/".join(path.parts[:2]))
    assert found == ONLY_IN


def test_a_library_that_is_a_choice_is_known_in_its_own_file_alone() -> None:
    for library, files in LIBRARY_ONLY_IN.items():
        found = {p.as_posix() for p in OURS if any(name.split(".")[0] == library for name in imports(p))}
        assert found == files


def test_nothing_imports_generated_and_no_spec_imports_runtime() -> None:
    assert not [p for p in FILES if any(name.split(".")[0] == "generated" for name in imports(p))]
    specs = [p for p in FILES if p.parts[0] == "specs" and len(p.parts) == 2]
    assert {name.split(".")[0] for path in specs for name in imports(path)} == {"lorac"}


def test_runtime_is_ours_and_not_a_package_of_that_name_from_elsewhere() -> None:
    assert Path(runtime.__file__).resolve() == ROOT / "runtime" / "__init__.py"


HEAVY = {"torch", "diffusers", "transformers", "peft", "numpy"}


@pytest.mark.parametrize(
    ("modules", "heavy"), [(LIGHT, HEAVY | {"PIL", "rich"}), (LOOKING, HEAVY)], ids=["plans", "runs"]
)
def test_what_help_and_looking_imports_is_light(modules: list[str], heavy: set[str]) -> None:
    code = f"import sys, {', '.join(modules)}\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_planning_imports_no_pipeline_and_no_compiler() -> None:
    families = ", ".join(FAMILIES.values())
    code = (
        f"import sys, lorac.estimate.cost, {families}\n"
        "print([m for m in sys.modules if m.startswith(('diffusers.pipelines.', 'torch._inductor.compile_fx'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------------------------- what no file may do


@pytest.mark.parametrize("path", OURS, ids=str)
def test_nothing_that_runs_strangers_code_is_called(path: Path) -> None:
    banned = {"eval", "exec", "compile", "__import__", "torch.load", "pickle.load", "pickle.loads"}
    allowed = RUNS_CODE.get(path.as_posix(), set())
    assert set(calls(path)) & banned <= allowed
    assert not [name for name in imports(path) if name.split(".")[0] in ("pickle", "dill", "cloudpickle")]


def test_modules_are_imported_by_name_only_from_closed_registries() -> None:
    found = {path.as_posix() for path in OURS if any("import_module" in name for name in calls(path))}
    assert found == {
        "lorac/importers/__init__.py",
        "lorac/commands/__init__.py",
        "runtime/adapters/__init__.py",
        "runtime/families/__init__.py",
        "runtime/media/__init__.py",
        "runtime/optimizers/__init__.py",
    }


def test_no_family_is_named_outside_its_own_file_and_the_registry() -> None:
    named = re.compile(r"family\s*==\s*\"(?!auto)|\.NAME\s*==")
    assert [path.as_posix() for path in OURS if named.search((ROOT / path).read_text())] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_only_the_end_of_a_process_prints() -> None:
    printing = {path.as_posix() for path in OURS if "print" in set(calls(path))}
    assert printing == {"runtime/ending.py"}


# -------------------------------------------------------------------------------------------------- the rooms


def test_each_test_folder_mirrors_a_package() -> None:
    own = {
        Path("tests") / name
        for name in (
            "attacks",
            "bench",
            "bench/compiled",
            "bench/images",
            "bench/language",
            "bench/profile",
            "consumers",
            "emoji",
            "validate",
        )
    }
    folders = {path.parent for path in FILES if path.name.startswith("test_") and path.parts[0] == "tests"}
    rooms = (ROOT, ROOT / "specs")
    mirrored = {f for f in folders if any(room.joinpath(*f.parts[1:]).is_dir() for room in rooms)}
    assert folders - mirrored <= own


def test_no_two_test_modules_have_the_same_name_for_python() -> None:
    """pytest imports a test without `__init__.py` beside it by its bare name."""
    bare = [
        path.name
        for path in FILES
        if path.name.startswith("test_") and not (ROOT / path.parent / "__init__.py").exists()
    ]
    assert len(bare) == len(set(bare))
