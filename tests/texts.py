"""Small text sets, and experiments over them that a test can plan and carry out on the tiny language model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from lorac import Answers, Experiment, Fit, Instructions, LoRA, Outputs, Sequences, Train
from lorac.compile import compile_experiment
from runtime import plan, preflight
from runtime.preflight import Where

LENGTH = 128


def questions(count: int = 14, first: int = 0) -> list[dict[str, str]]:
    """Instructions with answers of one to five words, all different."""
    return [
        {"instruction": f"Say {at}", "output": " ".join(f"word {at + word}" for word in range(at % 5 + 1))}
        for at in range(first, first + count)
    ]


def write(file: Path, rows: Iterable[Any]) -> Path:
    """Rows as a .jsonl file; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def experiment(base: Path, data: Any, **changes: Any) -> Experiment:
    """Six steps of four sequences; `changes` are fields of Sequences, LoRA, Train, Fit or Outputs, or whole parts."""
    given: dict[type, dict[str, Any]] = {
        Sequences: {"length": LENGTH},
        LoRA: {"rank": 4, "alpha": 8},
        Train: {"effective_batch": 4, "steps": 6, "learning_rate": 1e-2, "warmup_steps": 2, "seed": 1},
        Fit: {
            "card": "cpu",
            "threads": 1,
            "micro_batch": 4,
            "accumulation": 1,
            "gradient_checkpointing": False,
        },
        Outputs: {"save_steps": 2, "dtype": "fp32"},
    }
    parts = {name: changes.pop(name) for name in ("samples", "name") if name in changes}
    for field, value in changes.items():
        owner = next(part for part in given if field in {one.name for one in attrs.fields(part)})
        given[owner][field] = value
    return Experiment(
        name=parts.get("name", "tiny"),
        base=str(base),
        data=Instructions(str(data)) if isinstance(data, Path) else data,
        sequences=Sequences(**given[Sequences]),
        adapter=LoRA(**given[LoRA]),
        train=Train(**given[Train]),
        fit=Fit(**given[Fit]),
        samples=parts.get("samples", Answers()),
        outputs=Outputs(**given[Outputs]),
    )


def planned(base: Path, data: Any, folder: Path, **changes: Any) -> plan.Plan:
    """The experiment's plan; paths are relative to `folder`."""
    return compile_experiment(experiment(base, data, **changes), folder, folder)


def where(of: plan.Plan, folder: Path, cache: Path) -> Where:
    """Places for a run in `folder` of a plan whose base and data are at absolute places."""
    return Where(
        base=Path(of.outputs.places.base),
        data=Path(of.outputs.places.data),
        output=folder / "tiny",
        log=folder / "tiny" / "logs",
        cache=cache,
    )


def carry_out(of: plan.Plan, places: Where, fault: Callable[[int], None] = lambda step: None) -> Path:
    """Check a plan and run it in this process, as `python -m runtime` does. PEFT's file."""
    from runtime.run import Options, run

    preflight.check(of, places)
    return run(of, Options(where=places, fault=fault)) / "adapter_model.safetensors"
