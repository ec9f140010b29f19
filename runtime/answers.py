"""Answers of a language model, with the adapter and without, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from runtime import plan
from runtime.step import Trainee


@attrs.frozen(kw_only=True)
class Answer:
    """A prompt with what the base says, and what it says with the adapter."""

    prompt: str
    base: str
    adapted: str


def compare(of: Trainee, tokenizers: dict[str, Any], wanted: plan.Answers) -> list[Answer]:
    """Both answers to each prompt; prompt i is drawn with seed + i where the temperature is above 0."""
    said = {}
    for weight in (0.0, 1.0):
        with _at(of, weight):
            said[weight] = [
                answer(of, tokenizers, wanted, prompt, wanted.seed + place)
                for place, prompt in enumerate(wanted.prompts)
            ]
    return [
        Answer(prompt=prompt, base=base, adapted=adapted)
        for prompt, base, adapted in zip(wanted.prompts, said[0.0], said[1.0], strict=True)
    ]


def answer(of: Trainee, tokenizers: dict[str, Any], wanted: plan.Answers, prompt: str, seed: int) -> str:
    """One answer at the adapter's present weight."""
    data = of.program.data
    assert isinstance(data, plan.Texts)
    messages = question(wanted.system, prompt)
    backbone = of.family.BACKBONE
    return generated(
        of.modules[backbone],
        tokenizers[backbone],
        messages,
        data.template,
        wanted.max_tokens,
        wanted.temperature,
        seed,
    )


def question(system: str, prompt: str) -> list[dict[str, str]]:
    """The messages that a model answers; no system message where it is empty."""
    asked = [{"role": "system", "content": system}] if system else []
    return [*asked, {"role": "user", "content": prompt}]


def generated(
    model: Any,
    tokenizer: Any,
    messages: list[dict[str, str]],
    template: str,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> str:
    """What the model says next; plain text goes on where there is no template."""
    if template:
        ids = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
    else:
        ids = tokenizer(messages[-1]["content"], return_tensors="pt")["input_ids"]
    ids = ids.to(model.device)
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.pad_token_id
            if tokenizer.pad_token_id is not None
            else tokenizer.eos_token_id,
            eos_token_id=stops(model, tokenizer),
            **drawn,
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def stops(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's EOS and what the base's own generation config names."""
    named = getattr(model.generation_config, "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    return sorted({int(token) for token in found if token is not None})


@contextmanager
def _at(of: Trainee, weight: float) -> Iterator[None]:
    """Evaluation at the adapter's weight; then all as it was."""
    before = {name: module.training for name, module in of.modules.items()}
    for module in of.modules.values():
        module.eval()
    of.weigh(weight)
    try:
        yield
    finally:
        for name, module in of.modules.items():
            module.train(before[name])
        of.weigh(1.0)
        if of.stream is not None:
            of.stream.rest()
