"""PEFT's language benchmark: Llama-3.2-3B on MetaMathQA (huggingface/peft method_comparison/MetaMathQA/run.py).

The published figure is the most that the allocator had reserved over 5000 steps, on an L40S; it is set by the longest
batch, whose length is not published. So this checks one figure against another: the length is read off the plain LoRA
run, and the other methods, which saw the same batches, are predicted with it.

run.py measures the base model's loss inside `model.disable_adapter()` after it made the optimizer. Leaving that context
makes the whole adapter trainable again, LoRA-FA's frozen A too: its gradients and the inputs kept for them are in the
published figure, its moments are not. The same is done here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lorac.estimate.allocator import replay
from lorac.estimate.trace import materialize, trace
from tests.validate.case import Published, Result, judge

SOURCE = "huggingface/peft@5d602fd method_comparison/MetaMathQA/results/"
BATCH = 4

CASES = [
    (
        Published(
            name=f"peft Llama-3.2-3B {kind}",
            source=f"{SOURCE}lora--llama-3.2-3B-rank32{file}.json",
            gpu="L40S",
            capability=(8, 9),
            metric="reserved",
            bytes=measured,
            precision=1,
        ),
        kind,
    )
    for kind, file, measured in (
        ("lora", "", 22_292_725_760),
        ("dora", "-dora", 24_532_484_096),
        ("lorafa", "-lorafa", 22_240_296_960),
        ("mica", "-mica", 22_244_491_264),
    )
]


def maker(kind: str, length: int) -> Callable[[], Callable[[], None]]:
    """The train step of run.py: padded batch with its mask, the model's own loss, clip, AdamW."""

    def make() -> Callable[[], None]:
        model = adapted(kind)
        materialize(model)
        model.train()
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0.1)
        if kind == "lorafa":
            with model.disable_adapter():
                pass

        def step() -> None:
            tokens, mask, labels = (torch.empty(BATCH, length, dtype=torch.int64) for _ in range(3))
            model.zero_grad()
            loss = model(input_ids=tokens, attention_mask=mask, labels=labels, num_items_in_batch=1000).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        return step

    return make


def adapted(kind: str) -> PeftModel:
    """Llama-3.2-3B's architecture on the meta device with rank 32 on q and v. LoRA-FA freezes A, MiCA freezes B."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    lora = LoraConfig(
        r=32,
        lora_alpha=64,
        target_modules=["q_proj", "v_proj"],
        use_dora=kind == "dora",
        task_type="CAUSAL_LM",
    )
    with torch.device("meta"):
        wrapped = get_peft_model(model, lora, autocast_adapter_dtype=True)
    for name, parameter in wrapped.named_parameters():
        if (kind == "lorafa" and "lora_A" in name) or (kind == "mica" and "lora_B" in name):
            parameter.requires_grad_(False)
    return wrapped


def longest_batch(published: Published, kind: str) -> int:
    """The length at which the prediction for this run comes nearest to what was published, by bisection."""
    low, high = 256, 768
    while high - low > 1:
        middle = (low + high) // 2
        recorded = trace(maker(kind, middle), steps=2, capability=published.capability)
        if replay(recorded.requests()).peak_reserved > published.bytes:
            high = middle
        else:
            low = middle
    return low


def results() -> list[Result]:
    """All but the first, whose figure gave the length."""
    length = longest_batch(*CASES[0])
    found = []
    for published, kind in CASES[1:]:
        start = time.perf_counter()
        recorded = trace(maker(kind, length), steps=2, capability=published.capability)
        found.append(judge(published, recorded, time.perf_counter() - start))
    return found
