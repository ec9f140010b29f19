"""Traced against measured on this machine's CPU: peaks of live tensor bytes of small models, fake and real."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import attrs
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lorac.estimate import phases
from lorac.estimate.record import Trace
from lorac.estimate.trace import materialize, measure, trace
from runtime import plan
from tests.validate import gpu_case
from tests.validate.gpu_case import Case

Step = Callable[[], None]


@attrs.frozen(kw_only=True)
class Setting:
    model: str
    batch: int
    rank: int
    checkpointing: bool
    dtype: torch.dtype

    def __str__(self) -> str:
        recomputes = ", checkpointing" if self.checkpointing else ""
        return f"{self.model}, batch {self.batch}, rank {self.rank}, {str(self.dtype)[6:]}{recomputes}"


@attrs.frozen(kw_only=True)
class Compared:
    name: str
    traced: int
    measured: int
    error: float
    trace_seconds: float
    real_seconds: float


def settings() -> Iterator[Setting]:
    choices = itertools.product(
        ("unet", "llama"), (1, 3), (4, 16), (False, True), (torch.float32, torch.bfloat16)
    )
    for model, batch, rank, checkpointing, dtype in choices:
        yield Setting(model=model, batch=batch, rank=rank, checkpointing=checkpointing, dtype=dtype)


def own_settings() -> Iterator[Case]:
    """Our own step, with each way of holding less: a quantised base, 8-bit moments, offload, slices."""
    ways: tuple[dict[str, Any], ...] = (
        {},
        {"quantization": "nf4"},
        {"quantization": "int8"},
        {"state_bits": 8},
        {"offloaded": "some"},
        {"offloaded": "all"},
        {"quantization": "nf4", "state_bits": 8, "offloaded": "all"},
        {"slices": 4},
    )
    kinds: tuple[tuple[Literal["none", "all"], plan.Dtype], ...] = (("none", "fp32"), ("all", "bf16"))
    for way, (again, dtype) in itertools.product(ways, kinds):
        yield Case(model="sd1", rank=64, micro_batch=2, length=64, checkpointing=again, dtype=dtype, **way)


def compare_own(case: Case, architecture: dict[str, Any]) -> Compared:
    """What the planner traces of our step, and the step itself on random weights of `architecture`."""
    of = gpu_case.program(case, architecture)
    here = attrs.evolve(of, compute=attrs.evolve(of.compute, device="cpu", threads=2))
    return _compared(
        f"lorac's step: {case}",
        lambda: phases.training(here, (0, 0), whole=True),
        lambda: measure(lambda: gpu_case.sd1_step(case, architecture, "cpu"), steps=2),
    )


def compare(setting: Setting) -> Compared:
    """The same `make`, once on fake and once on real tensors."""
    return _compared(
        str(setting),
        lambda: trace(maker(setting), steps=2, device="cpu"),
        lambda: measure(maker(setting), steps=2),
    )


def _compared(name: str, trace_it: Callable[[], Trace], measure_it: Callable[[], Trace]) -> Compared:
    start = time.perf_counter()
    traced = trace_it().peak.bytes
    between = time.perf_counter()
    measured = measure_it().peak.bytes
    return Compared(
        name=name,
        traced=traced,
        measured=measured,
        error=traced / measured - 1,
        trace_seconds=between - start,
        real_seconds=time.perf_counter() - between,
    )


def maker(setting: Setting) -> Callable[[], Step]:
    """A LoRA train step: forward, backward over two micro-batches, clipping, AdamW."""

    def make() -> Step:
        torch.set_default_dtype(setting.dtype)
        with torch.device("meta"):
            model, targets = (unet if setting.model == "unet" else llama)()
            lora = LoraConfig(r=setting.rank, lora_alpha=setting.rank, target_modules=targets)
            model = get_peft_model(model, lora, autocast_adapter_dtype=False)
        torch.set_default_dtype(torch.float32)
        materialize(model)
        model.train()
        if setting.checkpointing and setting.model == "unet":
            model.base_model.model.enable_gradient_checkpointing()
        elif setting.checkpointing:
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned)
        loss = unet_loss if setting.model == "unet" else llama_loss

        def step() -> None:
            for _ in range(2):
                loss(model, setting.batch, setting.dtype).backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    return make


def unet() -> tuple[nn.Module, list[str]]:
    model = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return model.requires_grad_(False), ["to_q", "to_k", "to_v", "to_out.0"]


def llama() -> tuple[nn.Module, list[str]]:
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config).requires_grad_(False), ["q_proj", "v_proj"]


def unet_loss(model: nn.Module, batch: int, dtype: torch.dtype) -> torch.Tensor:
    latents = torch.randn(batch, 4, 32, 32, dtype=dtype)
    timesteps = torch.randint(0, 1000, (batch,))
    context = torch.randn(batch, 77, 64, dtype=dtype)
    predicted = model(latents, timesteps, encoder_hidden_states=context).sample
    return nn.functional.mse_loss(predicted.float(), torch.zeros_like(predicted, dtype=torch.float32))


def llama_loss(model: nn.Module, batch: int, dtype: torch.dtype) -> torch.Tensor:
    tokens = torch.randint(0, 1000, (batch, 96))
    return model(input_ids=tokens, labels=tokens).loss  # type: ignore[no-any-return]
