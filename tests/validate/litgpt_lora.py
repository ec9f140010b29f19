"""LitGPT's LoRA and QLoRA runs, with LitGPT's own model and loss, at the commit that published the figure.

The sources are taken from a clone of github.com/Lightning-AI/litgpt. Each case runs in a process of its own:
`python -m tests.validate.litgpt_lora CLONE NAME` prints its result as JSON.

- The config hub's runs (README.md of config_hub/finetune) truncate at 512 tokens; every micro-batch is taken as full.
- The resource tables' runs begin with the longest sample of their data (its length is published) and then go on with
  ordinary ones, taken as 128 tokens: the peak lies in the first iteration, before the optimizer has state.
- The tables name commit 8641822 for their code, and were committed in 0cc02afa ten days later. Between the two, the
  RMS norm began to compute in fp32 (6178c7c), which keeps one tensor more for each norm: the Llama rows fit 0cc02afa
  (0.0 to 0.4 %), not 8641822 (-3.0 to -4.9 %); phi has no such norm and fits both. So 0cc02afa is what is run.
- Lightning's precision plugins give the logits back in fp32 (`HalfPrecision.convert_output`).
"""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import torch

from lorac.estimate.trace import materialize, trace
from tests.validate.case import Published, Result, judge
from tests.validate.nf4 import PagedAdamW, quantise

ORDINARY = 128
EVERYTHING = ("query", "key", "value", "projection", "mlp", "head")


@attrs.frozen(kw_only=True)
class Run:
    commit: str
    model: str
    micro_batch: int
    length: int
    rank: int
    targets: tuple[str, ...] = ("query", "value")
    quantised: str = ""
    only_first_is_long: bool = False


HUB = "Lightning-AI/litgpt config_hub/finetune/README.md"
TABLES = "Lightning-AI/litgpt tutorials/resource-tables.md"


def _hub(name: str, gigabytes: float, run: Run) -> tuple[Published, Run]:
    return _case(f"litgpt hub {name}", f"{HUB} at {run.commit}", "A10G", (8, 6), gigabytes, run)


def _table(
    name: str, gigabytes: float, model: str, batch: int, length: int, nf4: str = ""
) -> tuple[Published, Run]:
    run = Run(
        commit="0cc02afa",
        model=model,
        micro_batch=batch,
        length=length,
        rank=8,
        quantised=nf4,
        only_first_is_long=True,
    )
    return _case(f"litgpt tables {name}", f"{TABLES} at 0cc02afa", "A100-SXM4-40GB", (8, 0), gigabytes, run)


def _case(
    name: str, source: str, gpu: str, capability: tuple[int, int], gigabytes: float, run: Run
) -> tuple[Published, Run]:
    published = Published(
        name=name,
        source=source,
        gpu=gpu,
        capability=capability,
        metric="allocated",
        bytes=round(gigabytes * 1e9),
        precision=10_000_000,
    )
    return published, run


GEMMA = Run(commit="43c44323", model="Gemma-2b", micro_batch=2, length=512, rank=8, targets=EVERYTHING)
SMALL = Run(commit="00af8b0d", model="Llama-3.2-1B", micro_batch=1, length=512, rank=32)
LARGE = attrs.evolve(SMALL, model="Llama-3.2-3B")
PHI, LLAMA = ("phi-1_5", 1044), ("Llama-2-7b-hf", 1304)

CASES = [
    _hub("gemma-2b lora", 12.62, GEMMA),
    _hub("gemma-2b qlora", 11.58, attrs.evolve(GEMMA, rank=16, quantised="nf4")),
    _hub("llama-3.2-1b lora", 4.49, SMALL),
    _hub("llama-3.2-1b qlora", 5.53, attrs.evolve(SMALL, micro_batch=2, quantised="nf4")),
    _hub("llama-3.2-3b lora", 9.67, LARGE),
    _hub("llama-3.2-3b qlora", 10.30, attrs.evolve(LARGE, micro_batch=2, quantised="nf4")),
    _table("phi-1.5 b1", 4.82, PHI[0], 1, PHI[1]),
    _table("phi-1.5 b2", 6.76, PHI[0], 2, PHI[1]),
    _table("phi-1.5 b4", 10.68, PHI[0], 4, PHI[1]),
    _table("phi-1.5 nf4 b1", 3.78, PHI[0], 1, PHI[1], "nf4"),
    _table("phi-1.5 nf4-dq b1", 3.72, PHI[0], 1, PHI[1], "nf4-dq"),
    _table("Llama-2-7b b1", 21.30, LLAMA[0], 1, LLAMA[1]),
    _table("Llama-2-7b b2", 29.07, LLAMA[0], 2, LLAMA[1]),
    _table("Llama-2-7b nf4 b1", 14.14, LLAMA[0], 1, LLAMA[1], "nf4"),
    _table("Llama-2-7b nf4-dq b1", 13.84, LLAMA[0], 1, LLAMA[1], "nf4-dq"),
]


def results(clone: Path) -> list[Result]:
    """Every case, each in its own process."""
    found = []
    for published, _ in CASES:
        command = [sys.executable, "-m", "tests.validate.litgpt_lora", str(clone), published.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(Result(**json.loads(done.stdout.splitlines()[-1])))
    return found


def maker(run: Run, package: str) -> Callable[[], Callable[[], None]]:
    """The step of LitGPT's finetune/lora.py: micro-batches, chunked cross entropy, AdamW."""
    lora, helpers = importlib.import_module(f"{package}.lora"), importlib.import_module(f"{package}.utils")
    prefix = "to_" if package == "lit_gpt" else "lora_"
    plain = "" if package == "lit_gpt" else "lora_"
    settings = {f"{prefix}{part}": part in run.targets for part in EVERYTHING}
    settings |= {f"{plain}r": run.rank, f"{plain}alpha": 16, f"{plain}dropout": 0.05}
    config = lora.Config.from_name(run.model, **settings)

    def make() -> Callable[[], None]:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            model = lora.GPT(config)
        torch.set_default_dtype(torch.float32)
        lora.mark_only_lora_as_trainable(model)
        if run.quantised:
            quantise(model, nested=run.quantised == "nf4-dq")
        materialize(model)
        model.max_seq_length = run.length
        model.train()
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = (
            PagedAdamW(learned) if run.quantised else torch.optim.AdamW(learned, lr=3e-4, weight_decay=0.01)
        )
        iterations = 0

        def step() -> None:
            nonlocal iterations
            for _ in range(2):
                iterations += 1
                length = run.length if iterations == 1 or not run.only_first_is_long else ORDINARY
                tokens = torch.empty(run.micro_batch, length, dtype=torch.int64)
                targets = torch.empty(run.micro_batch, length, dtype=torch.int64)
                logits = [chunk.float() for chunk in model(tokens, lm_head_chunk_size=128)]
                logits[-1] = logits[-1][..., :-1, :]
                loss = helpers.chunked_cross_entropy(logits, targets[..., 1:])
                (loss / 2).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


def main(clone: Path, name: str) -> None:
    published, run = next((published, run) for published, run in CASES if published.name == name)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", str(clone), "archive", run.commit], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
            tree.extractall(folder, filter="data")
        sys.path.insert(0, folder)
        package = "lit_gpt" if (Path(folder) / "lit_gpt").exists() else "litgpt"
        start = time.perf_counter()
        recorded = trace(maker(run, package), steps=2, capability=published.capability)
        seconds = time.perf_counter() - start
    print(json.dumps(attrs.asdict(judge(published, recorded, seconds))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
