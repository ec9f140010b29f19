"""Predicted against measured seconds a step on this CPU: `python -m tests.validate.timing [--out docs]`.

- The machine is calibrated first (`lorac.calibrate`), and nothing else gives the prediction a number.
- Stable Diffusion 1.x of small widths goes the whole way: a plan's program, `Costs.exact`, the runtime's own step.
  A Llama-shaped model has no family yet: the same tracer over peft's step.
- Settings run in turn, several rounds, so that a noisy machine slows them alike; a median over all steps counts.
- At last one program at a memory limit between nothing and everything recomputed, as the planner chooses it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lorac import calibrate
from lorac.estimate import cards, roofline
from lorac.estimate.cost import Cost, Costs, choices_of
from lorac.estimate.phases import DTYPES, default_dtype
from lorac.estimate.trace import materialize, trace
from runtime import plan
from runtime import step as train_step
from runtime.families import family
from tests.lorac.plans import PROGRAM

Step = Callable[[], Any]

ROUNDS = 7
STEPS = 1
"""Steps that are timed in a round, after one that is not."""


RANKS, ERROR = 0.9, 0.15
"""Goals: the least rank correlation, the most median relative error."""


@attrs.frozen
class Setting:
    """`width` is the UNet's first level's channels or the Llama's hidden size, `size` pixels or tokens."""

    model: str
    width: int
    batch: int
    rank: int
    size: int
    dtype: plan.Dtype
    checkpointing: bool

    def __str__(self) -> str:
        recomputes = ", recomputing" if self.checkpointing else ""
        size = f"{self.size} px" if self.model == "sd1" else f"{self.size} tokens"
        return f"{self.model} {self.width}, batch {self.batch}, rank {self.rank}, {size}, {self.dtype}{recomputes}"


SETTINGS = (
    Setting("sd1", 32, 1, 4, 128, "fp32", False),
    Setting("sd1", 32, 4, 8, 128, "fp32", False),
    Setting("sd1", 32, 1, 16, 256, "fp32", True),
    Setting("sd1", 32, 2, 4, 256, "bf16", False),
    Setting("sd1", 32, 8, 4, 64, "bf16", True),
    Setting("sd1", 64, 1, 4, 128, "fp32", False),
    Setting("sd1", 64, 2, 16, 128, "fp32", True),
    Setting("sd1", 64, 1, 8, 256, "bf16", False),
    Setting("sd1", 64, 2, 32, 256, "bf16", True),
    Setting("sd1", 96, 1, 8, 256, "fp32", False),
    Setting("sd1", 128, 1, 4, 128, "bf16", False),
    Setting("sd1", 160, 1, 16, 128, "fp32", True),
    Setting("llama", 128, 1, 4, 64, "fp32", False),
    Setting("llama", 128, 4, 16, 128, "bf16", False),
    Setting("llama", 256, 1, 8, 128, "fp32", False),
    Setting("llama", 256, 2, 8, 256, "fp32", True),
    Setting("llama", 256, 4, 32, 128, "bf16", True),
    Setting("llama", 512, 1, 16, 128, "fp32", False),
    Setting("llama", 512, 2, 4, 128, "bf16", False),
    Setting("llama", 768, 1, 8, 256, "bf16", True),
)
BUSY = """- the machine was not quiet: its load average was {load} on {cores} cores, so steps waited for a core, and the
  calibration did, too, at another time: neither error says much; measure again on a quiet machine"""
PARTLY = Setting("sd1", 64, 2, 8, 256, "fp32", False)
"""What is recomputed in part: none, a limit half-way between none and all, all."""


@attrs.frozen(kw_only=True)
class Compared:
    """Seconds a step. `error` is predicted / measured - 1, `least` and its error those of the fastest step."""

    name: str
    predicted: float
    measured: float
    error: float
    least: float
    error_to_least: float
    load: float


# ---------------------------------------------------------------------------------------- Stable Diffusion 1.x


def program(setting: Setting, threads: int) -> plan.Program:
    """A plan's program of a small base, without pictures."""
    architecture = family("sd1").published()
    w = setting.width
    architecture["unet"] |= {"block_out_channels": [w, 2 * w, 4 * w, 4 * w], "cross_attention_dim": 128}
    architecture["vae"] |= {"block_out_channels": [32] * 4, "layers_per_block": 1}
    architecture["text_encoder"] |= {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    architecture["text_encoder"] |= {"num_attention_heads": 2, "vocab_size": 1024}
    size = setting.size
    targets = family("sd1").targets(architecture, "qkvo", False)
    bare = attrs.evolve(
        PROGRAM,
        base=attrs.evolve(PROGRAM.base, architecture=architecture),
        data=attrs.evolve(PROGRAM.data, items=(), resolution=size),
        adapter=attrs.evolve(PROGRAM.adapter, rank=setting.rank, alpha=float(setting.rank), targets=targets),
        train=attrs.evolve(
            PROGRAM.train, effective_batch=setting.batch, micro_batch=setting.batch, accumulation=1
        ),
        compute=plan.Compute(device="cpu", threads=threads, dtype=setting.dtype, checkpointed=()),
    )
    if not setting.checkpointing:
        return bare
    with torch.device("meta"):
        modules = {"unet": family("sd1").build(architecture, "unet")}
    return recomputing(bare, tuple(family("sd1").blocks(modules)))


def recomputing(of: plan.Program, blocks: tuple[str, ...]) -> plan.Program:
    return attrs.evolve(of, compute=attrs.evolve(of.compute, checkpointed=blocks))


def real(of: plan.Program) -> Step:
    """The runtime's own step on random weights and a random batch."""
    sd1 = family("sd1")
    torch.manual_seed(0)
    with default_dtype(DTYPES[of.compute.dtype]):
        modules = {"unet": sd1.build(of.base.architecture, "unet")}
    train_step.attach(modules, of)
    for parameter in modules["unet"].parameters():
        parameter.data.normal_(std=0.02)
    trainee = train_step.trainee(sd1, modules, of)
    micro, size = of.train.micro_batch, of.data.resolution
    batch = sd1.example(of.base.architecture, micro, (size, size), False)
    for tensor in batch.values():
        if tensor.is_floating_point():
            tensor.normal_()

    def step() -> None:
        train_step.gradients(trainee, [(batch, range(micro))], micro)
        train_step.update(trainee, 1.0)

    return step


# -------------------------------------------------------------------------------------------------------- Llama


def llama(setting: Setting) -> Callable[[], Step]:
    """A LoRA train step of a Llama-shaped model by transformers and peft."""

    def make() -> Step:
        with torch.device("meta"), default_dtype(DTYPES[setting.dtype]):
            config = LlamaConfig(
                vocab_size=2000,
                hidden_size=setting.width,
                intermediate_size=setting.width * 11 // 4,
                num_hidden_layers=6,
                num_attention_heads=8,
                num_key_value_heads=4,
            )
            lora = LoraConfig(
                r=setting.rank,
                lora_alpha=setting.rank,
                target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            )
            base = LlamaForCausalLM(config).requires_grad_(False)
            model = get_peft_model(base, lora, autocast_adapter_dtype=False)
        materialize(model)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.02)
        for buffer in model.buffers():
            buffer.data.uniform_(0.01, 1)
        model.train()
        if setting.checkpointing:
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned)
        tokens = torch.randint(0, 2000, (setting.batch, setting.size))

        def step() -> None:
            model(input_ids=tokens, labels=tokens).loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    return make


# ---------------------------------------------------------------------------------------------------- comparing


def predicted(setting: Setting, costs: Costs, threads: int) -> float:
    if setting.model == "sd1":
        return costs.exact(program(setting, threads)).seconds_per_step
    return roofline.seconds(trace(llama(setting), steps=2, device="cpu").calls, costs.card)


def step_of(setting: Setting, threads: int) -> Step:
    return real(program(setting, threads)) if setting.model == "sd1" else llama(setting)()


def measured(steps: Sequence[Step]) -> Iterator[tuple[float, float, float]]:
    """Each step's median and least seconds over all rounds, and the median load average beside them."""
    seconds: list[list[float]] = [[] for _ in steps]
    loads: list[list[float]] = [[] for _ in steps]
    for _ in range(ROUNDS):
        for index, step in enumerate(steps):
            step()
            for _ in range(STEPS):
                began = time.perf_counter()
                step()
                seconds[index].append(time.perf_counter() - began)
            loads[index].append(os.getloadavg()[0])
    for one, load in zip(seconds, loads, strict=True):
        yield statistics.median(one), min(one), statistics.median(load)


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """The correlation of ranks; there are no ties among measured seconds."""

    def ranks(values: Sequence[float]) -> list[int]:
        order = sorted(range(len(values)), key=values.__getitem__)
        return [order.index(index) for index in range(len(values))]

    count = len(left)
    squares = sum((a - b) ** 2 for a, b in zip(ranks(left), ranks(right), strict=True))
    return 1 - 6 * squares / (count * (count**2 - 1))


def partly(costs: Costs, threads: int) -> dict[str, Any]:
    """Steps a second with none, some and all blocks recomputed, the middle one as the planner chooses it."""
    none = program(PARTLY, threads)
    free = costs.exact(none)
    every = recomputing(none, tuple(block.name for block in free.blocks))
    limit = (free.peak_bytes + costs.exact(every).peak_bytes) // 2
    choices = choices_of(free, limit)
    programs = [none, recomputing(none, choices[1]), every]
    predictions: list[Cost] = [costs.exact(one) for one in programs]
    rates = [1 / seconds for seconds, _, _ in measured([real(one) for one in programs])]
    expected = [1 / cost.seconds_per_step for cost in predictions]
    return {
        "setting": str(PARTLY),
        "limit_bytes": limit,
        "peak_bytes": [cost.peak_bytes for cost in predictions],
        "recomputed_blocks": [len(one.compute.checkpointed) for one in programs],
        "predicted_steps_per_second": [round(rate, 4) for rate in expected],
        "measured_steps_per_second": [round(rate, 4) for rate in rates],
        "predicted_part_to_all": round(expected[1] / expected[2], 3),
        "measured_part_to_all": round(rates[1] / rates[2], 3),
        "predicted_part_to_none": round(expected[1] / expected[0], 3),
        "measured_part_to_none": round(rates[1] / rates[0], 3),
    }


def compare(threads: int) -> dict[str, Any]:
    """Everything, as one JSON object."""
    found = calibrate.calibrate("cpu", threads)
    card = cards.calibrated(cards.cpu(), found)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with tempfile.TemporaryDirectory() as folder:
        costs = Costs(card, Path(folder))
        guesses = [predicted(setting, costs, threads) for setting in SETTINGS]
        times = measured([step_of(setting, threads) for setting in SETTINGS])
        rows = [
            Compared(
                name=str(setting),
                predicted=round(guess, 4),
                measured=round(seconds, 4),
                error=round(guess / seconds - 1, 3),
                least=round(least, 4),
                error_to_least=round(guess / least - 1, 3),
                load=round(load, 2),
            )
            for setting, guess, (seconds, least, load) in zip(SETTINGS, guesses, times, strict=True)
        ]
        part = partly(costs, threads)
    return {
        "command": "python -m tests.validate.timing",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads",
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "peft")},
        "rounds": ROUNDS,
        "spearman": round(spearman([row.predicted for row in rows], [row.measured for row in rows]), 3),
        "median_relative_error": round(statistics.median(abs(row.error) for row in rows), 3),
        "median_relative_error_to_least": round(
            statistics.median(abs(row.error_to_least) for row in rows), 3
        ),
        "largest_relative_error": max(abs(row.error) for row in rows),
        "settings": [attrs.asdict(row) for row in rows],
        "partly_recomputed": part,
    }


def page(answer: dict[str, Any]) -> str:
    """The same for people."""
    goals = {
        "spearman": answer["spearman"] >= RANKS,
        "median_relative_error": answer["median_relative_error"] <= ERROR,
    }
    said = {name: "reached" if met else "missed" for name, met in goals.items()}
    part = answer["partly_recomputed"]
    packages = ", ".join(f"{name} {number}" for name, number in answer["versions"].items())
    missed = answer["median_relative_error"] - ERROR
    load = statistics.median(row["load"] for row in answer["settings"])
    none, some, every = zip(
        part["recomputed_blocks"],
        part["predicted_steps_per_second"],
        part["measured_steps_per_second"],
        strict=True,
    )
    lines = [
        "# Seconds a step: predicted and measured",
        "",
        f"Made by `{answer['command']}` on {answer['machine']}, with {packages}.",
        "The machine was calibrated just before (`lorac calibrate`); no other number was given to the prediction.",
        f"Measured is the median of {ROUNDS * STEPS} steps in {ROUNDS} rounds over all settings in turn; load is the",
        "machine's load average beside them, 1.0 being one busy core.",
        "",
        f"- Spearman rank correlation {answer['spearman']:.3f} (goal {RANKS} or more: {said['spearman']})",
        f"- median relative error {answer['median_relative_error']:.1%} (goal {ERROR:.0%} or less: "
        f"{said['median_relative_error']}), largest {answer['largest_relative_error']:.1%}",
        *([f"- missed by {missed:.1%} of a step"] if missed > 0 else []),
        *([BUSY.format(load=load, cores=os.cpu_count())] if load > (os.cpu_count() or 1) else []),
        f"- median relative error to each setting's fastest step {answer['median_relative_error_to_least']:.1%}: other",
        "  work on the machine adds least to that",
        "",
        "| setting | predicted s | measured s | error | fastest s | error | load |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row['name']} | {row['predicted']:.3f} | {row['measured']:.3f} | {row['error']:+.1%} "
            f"| {row['least']:.3f} | {row['error_to_least']:+.1%} | {row['load']} |"
            for row in answer["settings"]
        ),
        "",
        "## Recomputing a part",
        "",
        f"{part['setting']}, limit {part['limit_bytes'] / 2**20:.1f} MiB, half-way between none and all recomputed.",
        "",
        "| blocks recomputed | predicted steps/s | measured steps/s |",
        "| --- | --- | --- |",
        *(f"| {blocks} | {guess:.3f} | {rate:.3f} |" for blocks, guess, rate in (none, some, every)),
        "",
        f"Part against all: {part['predicted_part_to_all']:.3f} times the steps predicted, "
        f"{part['measured_part_to_all']:.3f} measured; part against none: {part['predicted_part_to_none']:.3f} "
        f"predicted, {part['measured_part_to_none']:.3f} measured.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="a folder for timing.json and timing.md")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    answer = compare(options.threads)
    text = json.dumps(answer, indent=2)
    print(text)
    if options.out:
        (options.out / "timing.json").write_text(text + "\n", encoding="utf-8")
        (options.out / "timing.md").write_text(page(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
