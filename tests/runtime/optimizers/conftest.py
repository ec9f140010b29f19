"""What the tests of optimizers and averages run on, made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorac import Conversations, Experiment, Fit, LoRA, Outputs, Sequences, Train
from lorac.compile import compile_experiment
from runtime import plan
from runtime.families import causal_lm


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random language model and twelve short conversations."""
    folder = tmp_path_factory.mktemp("optimizers")
    causal_lm.tiny(folder / "base")
    turns = [[("user", f"{number}?"), ("assistant", "no " * (number % 5 + 1))] for number in range(12)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def four_steps(project: Path) -> plan.Plan:
    """Four steps of four sequences, one in three held out."""
    experiment = Experiment(
        name="tiny",
        base="base",
        data=Conversations("data.jsonl"),
        sequences=Sequences(length=64, held_out=0.3),
        adapter=LoRA(rank=2),
        train=Train(effective_batch=4, steps=4),
        fit=Fit(card="cpu", dtype="fp32", threads=1, micro_batch=4),
        outputs=Outputs(dtype="fp32"),
    )
    return compile_experiment(experiment, project, project, None, False)
