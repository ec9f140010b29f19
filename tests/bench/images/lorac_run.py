"""lorac: `python -m tests.bench.images.lorac_run TASK RESULT`. Plans and runs a spec as a user would, and watches."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench.images import measure
from tests.bench.images.setting import Task
from tests.bench.watched import lorac_run

NAME = "bench"
DTYPES = {"float32": "fp32", "bfloat16": "bf16"}

SPEC = """from lorac import AdamW, Experiment, Fit, Images, LoRA, Outputs, Train

experiment = Experiment(
    name={name!r},
    base={setting.base!r},
    data=Images({setting.train!r}, resolution={setting.resolution}, buckets=False, flip=True),
    adapter=LoRA(rank={setting.rank}, targets="qkvo"),
    train=Train(
        effective_batch={setting.batch},
        steps={setting.steps},
        learning_rate={setting.learning_rate},
        scheduler="constant",
        optimizer=AdamW(weight_decay={setting.weight_decay}),
        max_grad_norm={setting.max_grad_norm},
        seed={setting.seed},
    ),
    fit=Fit(card="cpu", threads={threads}{fit}),
    outputs=Outputs(save_steps={setting.every}, keep_checkpoints=10_000),
)
"""


def run(task: Task) -> measure.Result:
    with tempfile.TemporaryDirectory(prefix="lorac-bench-") as name:
        folder = Path(name)
        (folder / "spec.py").write_text(spec(task), encoding="utf-8")
        clock = lorac_run(folder)
        return measure.result(task, clock, files(folder / "output" / NAME))


def spec(task: Task) -> str:
    """The experiment as a lorac spec; a micro-batch of 0 leaves it to the planner."""
    way = task.way
    fit = f", micro_batch={way.micro_batch}" if way.micro_batch else ""
    fit += f", dtype={DTYPES[way.dtype]!r}"
    fit += ", gradient_checkpointing=True" if way.recompute else ""
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    return SPEC.format(name=NAME, setting=task.setting, threads=threads, fit=fit)


def files(output: Path) -> dict[int, Path]:
    """The LoRA's file of each checkpoint, by its step."""
    found = (path for path in output.glob(f"checkpoints/*/{NAME}-*.safetensors"))
    return {int(path.stem.rpartition("-")[2]): path for path in found}


if __name__ == "__main__":
    measure.main(run)
