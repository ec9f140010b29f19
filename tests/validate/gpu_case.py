"""A train step for a GPU, predicted from fake tensors and taken on real ones: the grid, and both ways to make a case.

- "sd1" is this project's own step (`runtime.step`) on Stable Diffusion 1.x at its published size, with random weights.
- "llama" is somebody's own step through the public tracer: transformers' model of Llama-3.2-1B's size, peft's LoRA.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from lorac.estimate import allocator, cuda, phases, roofline
from lorac.estimate.cards import Card
from lorac.estimate.cost import Costs
from lorac.estimate.trace import materialize, on_host, trace
from lorac.places import versions
from runtime import plan
from runtime import step as train_step
from runtime.dtypes import DTYPES
from runtime.families import family
from runtime.families.protocol import Batch

Step = Callable[[], Any]
Shapes = Mapping[str, dict[str, Any]]
"""Model -> its sizes: an `Architecture` for "sd1", a `LlamaConfig`'s fields for "llama"."""

FULL: Shapes = {
    "sd1": family("sd1").published(),
    "llama": {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
}
"""SD 1.5 (diffusers' v1-5 config) and Llama-3.2-1B (its config.json)."""

SEED = 0
"""Of the grid's order, which is mixed so that whatever part of it there is time for is a fair sample."""
SPREAD = 0.02
"""Standard deviation of random weights: the numbers stay finite, and no kernel's memory depends on them."""


@attrs.frozen(kw_only=True)
class Case:
    """One setting. `length` is a picture's side in pixels ("sd1") or a sample's tokens ("llama")."""

    model: Literal["sd1", "llama"]
    rank: int
    micro_batch: int
    length: int
    checkpointing: Literal["none", "some", "all"]
    dtype: plan.Dtype
    text_encoder: bool = False
    quantization: plan.Quantization = "none"
    state_bits: plan.StateBits = 32
    offloaded: Literal["none", "some", "all"] = "none"
    slices: int = 1

    def __str__(self) -> str:
        unit = "px" if self.model == "sd1" else "tokens"
        trained = " with text encoder" if self.text_encoder else ""
        said = (
            (True, f"{self.model}{trained}"),
            (True, f"{self.length} {unit}"),
            (True, f"batch {self.micro_batch}"),
            (True, f"rank {self.rank}"),
            (True, self.dtype),
            (self.quantization != "none", f"{self.quantization} base"),
            (self.state_bits != 32, f"{self.state_bits}-bit moments"),
            (self.checkpointing != "none", f"{self.checkpointing} recomputed"),
            (self.offloaded != "none", f"{self.offloaded} offloaded"),
            (self.slices > 1, f"attention in {self.slices} slices"),
        )
        return ", ".join(words for holds, words in said if holds)


@attrs.frozen(kw_only=True)
class Predicted:
    """Bytes at the train step's peak: in tensors, held by the allocator, and with the context; seconds a step."""

    allocated: int
    reserved: int
    total: int
    seconds: float


def grid() -> list[Case]:
    """Every case, in an order of which any beginning is a fair sample: a case of each kind in turn."""
    sd1 = [
        Case(
            model="sd1",
            rank=rank,
            micro_batch=micro,
            length=side,
            checkpointing=again,
            dtype=dtype,
            text_encoder=text,
        )
        for rank, micro, side, again, dtype, text in itertools.product(
            (8, 32),
            (1, 2, 4, 8),
            (512, 768),
            ("none", "some", "all"),
            ("bf16", "fp16", "fp32"),
            (False, True),
        )
    ]
    llama = [
        Case(model="llama", rank=rank, micro_batch=micro, length=length, checkpointing=again, dtype=dtype)
        for rank, micro, length, again, dtype in itertools.product(
            (8, 32), (1, 4), (512, 1024), ("none", "all"), ("bf16", "fp32")
        )
    ]
    ways = [
        Case(
            model="sd1",
            rank=32,
            micro_batch=micro,
            length=512,
            checkpointing=again,
            dtype="bf16",
            quantization=kind,
            state_bits=bits,
            offloaded=away,
            slices=slices,
        )
        for micro, again, (kind, bits, away, slices) in itertools.product(
            (1, 4),
            ("none", "all"),
            (
                ("nf4", 32, "none", 1),
                ("int8", 32, "none", 1),
                ("none", 8, "none", 1),
                ("none", 32, "some", 1),
                ("none", 32, "all", 1),
                ("nf4", 8, "all", 1),
                ("none", 32, "none", 4),
            ),
        )
    ]
    kinds = (sd1, llama, ways)
    for cases in kinds:
        random.Random(SEED).shuffle(cases)
    in_turn = itertools.zip_longest(*kinds)
    return [case for turn in in_turn for case in turn if case is not None]


def predict(case: Case, card: Card, folder: Path, shapes: Shapes = FULL) -> Predicted:
    """What lorac says of the case on a card. Needs no GPU; the traces of "sd1" are kept in `folder`."""
    overhead = cuda.overhead(card)
    if case.model == "sd1":
        of, costs = program(case, shapes["sd1"]), Costs(card, folder)
        cost = costs.exact(of)
        total = cost.phases["train"]
        return Predicted(
            allocated=costs.trace(of).peak.bytes,
            reserved=total - overhead,
            total=total,
            seconds=cost.seconds_per_step,
        )
    traced = trace(lambda: llama_step(case, shapes["llama"], "cpu", materialize), capability=card.capability)
    reserved = allocator.replay(traced.requests()).peak_reserved
    return Predicted(
        allocated=traced.peak.bytes,
        reserved=reserved,
        total=reserved + overhead,
        seconds=roofline.seconds(traced.calls, card),
    )


def real_step(case: Case, device: str, shapes: Shapes = FULL) -> Step:
    """The case's step on real tensors with random weights on a device."""
    if case.model == "sd1":
        return sd1_step(case, shapes["sd1"], device)
    return llama_step(case, shapes["llama"], device, lambda model: randomise(model, device))


# ------------------------------------------------------------------------------------------------------------- sd1


def program(case: Case, architecture: dict[str, Any]) -> plan.Program:
    """The case as a plan's program: one micro-batch a step, no data (a picture has the resolution's size)."""
    of = family("sd1")
    return plan.Program(
        locked=False,
        base=plan.Base(
            family="sd1",
            layout="diffusers",
            digest="",
            prediction_type=of.prediction_type(architecture),
            architecture=architecture,
        ),
        data=plan.Images(
            digest="", items=(), expected=1, resolution=case.length, flip=False, caption_dropout=0.0
        ),
        adapter=plan.Adapter(
            method="lora",
            rank=case.rank,
            alpha=float(case.rank),
            dropout=0.0,
            init="kaiming",
            targets=of.targets(architecture, "qkvo", case.text_encoder),
            modules={},
        ),
        train=plan.Train(
            steps=1,
            effective_batch=case.micro_batch,
            micro_batch=case.micro_batch,
            accumulation=1,
            processes=1,
            learning_rate=1e-4,
            text_encoder_learning_rate=1e-4,
            schedule=plan.Schedule(name="constant", warmup_steps=0, power=1.0),
            optimizer=plan.AdamW(
                beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, state_bits=case.state_bits
            ),
            objective=plan.Objective(snr_gamma=5.0, noise_offset=0.0),
            max_grad_norm=1.0,
            seed=SEED,
        ),
        compute=plan.Compute(
            device="cuda",
            threads=0,
            dtype=case.dtype,
            checkpointed=blocks(case, case.checkpointing, architecture),
            quantization=case.quantization,
            offloaded=("text_encoder",) * (not case.text_encoder)
            + ("vae", *blocks(case, case.offloaded, architecture)),
            attention_chunks=case.slices,
        ),
        versions=versions(),
    )


def components(case: Case) -> list[str]:
    """What is on the card while the case trains, in the order in which `lorac.estimate.phases` makes it."""
    of = family("sd1")
    return [of.BACKBONE, *(of.TEXT_ENCODERS if case.text_encoder else ())]


def blocks(
    case: Case, which: Literal["none", "some", "all"], architecture: dict[str, Any]
) -> tuple[str, ...]:
    """The names of these blocks: "some" is every other one."""
    if which == "none":
        return ()
    of = family("sd1")
    with torch.device("meta"):
        names = tuple(of.blocks({name: of.build(architecture, name) for name in components(case)}))
    return names if which == "all" else names[::2]


def sd1_step(case: Case, architecture: dict[str, Any], device: str) -> Step:
    """The runtime's own step, over one batch of random values."""
    of, described = family("sd1"), program(case, architecture)
    modules = phases.bare(described, components(case), case.dtype)
    if case.quantization != "none":
        for module in modules.values():
            randomise(module, "cpu")  # as the runtime does: quantised on the CPU, then moved
        train_step.pack(of, modules, described.compute)
        for module in modules.values():
            module.to(device)
    train_step.attach(modules, described)
    for module in modules.values():
        randomise(module, device)
    trainee = train_step.trainee(of, modules, described, torch.device(device))
    if trainee.stream is not None:
        on_host(trainee.stream.host_tensors())
    shape = of.example(architecture, case.micro_batch, (case.length,) * 2, case.text_encoder)
    batch: Batch = {name: drawn(tensor, device) for name, tensor in shape.items()}

    def step() -> None:
        train_step.gradients(trainee, [(batch, range(case.micro_batch))], case.micro_batch)
        train_step.update(trainee, 1.0)

    return step


# ----------------------------------------------------------------------------------------------------------- llama


def llama_step(case: Case, sizes: dict[str, Any], device: str, place: Callable[[nn.Module], None]) -> Step:
    """A step as a user of the public tracer would write it; `place` puts the model's weights on `device`."""
    with torch.device("meta"), phases.default_dtype(DTYPES[case.dtype]):
        base = LlamaForCausalLM(LlamaConfig(**sizes)).requires_grad_(False)
        lora = LoraConfig(r=case.rank, lora_alpha=case.rank, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(base, lora, autocast_adapter_dtype=False)
    place(model)
    model.train()
    if case.checkpointing != "none":
        base.gradient_checkpointing_enable({"use_reentrant": False})
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)
    tokens = torch.zeros(case.micro_batch, case.length, dtype=torch.int64, device=device)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# --------------------------------------------------------------------------------------------------- random weights


def randomise(module: nn.Module, device: str) -> None:
    """Give a module built on the meta device random weights on a device, in place; shared ones stay shared."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is None or tensor.device.type != "meta":
                    continue
                if id(tensor) not in made:
                    values = drawn(tensor, device)
                    made[id(tensor)] = (
                        nn.Parameter(values, requires_grad=tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else values
                    )
                table[name] = made[id(tensor)]


def drawn(tensor: Tensor, device: str) -> Tensor:
    """Small random numbers of a tensor's shape and dtype; whole numbers count up, as positions and tokens do."""
    if tensor.is_floating_point():
        return torch.empty_like(tensor, device=device).normal_(std=SPREAD)
    counted = torch.arange(tensor.shape[-1], dtype=tensor.dtype, device=device)
    return counted.expand(tensor.shape).contiguous()
