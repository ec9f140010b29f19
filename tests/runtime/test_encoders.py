"""A large text encoder that streams: the same numbers, and nothing of its blocks stays on the device."""

from __future__ import annotations

import attrs
import torch

from runtime import encoders, plan
from runtime.families import family, t5

COMPUTE = plan.Compute(
    device="cuda", threads=0, dtype="bf16", checkpointed=(), offloaded=("text_encoder_2", "vae")
)


def test_only_a_large_encoder_that_waits_streams() -> None:
    of = family("flux1")

    assert [name for name in of.COMPONENTS if encoders.streams(of, name, COMPUTE)] == ["text_encoder_2"]
    assert not encoders.streams(of, "text_encoder_2", attrs.evolve(COMPUTE, offloaded=()))
    assert not encoders.streams(of, "text_encoder_2", attrs.evolve(COMPUTE, device="cpu"))


def test_a_streamed_encoder_says_the_same_and_lets_its_blocks_go() -> None:
    of, tokens = family("flux1"), torch.arange(8)[None]
    torch.manual_seed(0)
    module = t5.build(t5.TINY).eval()
    here: list[int] = []
    with torch.no_grad():
        whole = module(tokens)[0]
        stream = encoders.stream(of, "text_encoder_2", module, torch.device("cpu"))
        stream.fetched = lambda tensors: here.append(len(stream._here))
        streamed = module(tokens)[0]

    weights = sum(parameter.numel() for block in module.encoder.block for parameter in block.parameters())
    assert sum(tensor.numel() for tensor in stream.host_tensors()) == weights > 0
    assert torch.equal(whole, streamed)
    assert len(here) == len(stream.blocks) == 2
    assert not stream._here
