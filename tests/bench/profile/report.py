"""The profile for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def page(found: Mapping[str, Any]) -> str:
    machine, limits = found["machine"], found["limits"]
    lines = [
        "# Where a step's time goes",
        "",
        f"Made by `{found['command']}` on {machine['processor']}, {machine['threads']} of {machine['cores']} cores, "
        f"torch {found['versions']['torch']}. The limits are this machine's own, measured just before: "
        f"{limits['fp32'] / 1e9:.0f} GFLOP/s in fp32, {(limits['bf16'] or 0) / 1e9:.0f} in bf16, "
        f"{limits['bandwidth'] / 1e9:.1f} GB/s. A kind's limit is the sum over its calls of the longer of FLOPs and "
        "bytes at these; traffic that stays in the caches is faster than that, so a share above 1 is possible.",
    ]
    for step in found["steps"]:
        lines += ["", *_step(step)]
    return "\n".join(lines) + "\n"


def _step(step: Mapping[str, Any]) -> Iterator[str]:
    parts = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in step["parts"].items())
    yield f"## {step['name']}"
    yield ""
    yield f"{step['seconds'] * 1e3:.1f} ms a step: {parts} ms. {step['share']:.0%} of the limit."
    yield ""
    yield "| kind of work in the gradients | ms | share of them | calls | limit, ms | share of its limit |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    whole = step["parts"]["gradients"]
    for name, seconds in sorted(step["kinds"].items(), key=lambda pair: -pair[1]):
        least = step["limits"].get(name, 0.0)
        of_limit = f"{least / seconds:.0%}" if least and seconds else ""
        yield (
            f"| {name} | {seconds * 1e3:.1f} | {seconds / whole:.0%} | {step['calls'].get(name, 0)} "
            f"| {least * 1e3:.1f} | {of_limit} |"
        )
    yield ""
    yield "Operators: " + ", ".join(
        f"{n.removeprefix('aten::')} {s * 1e3:.1f} ms" for n, s in step["operators"].items()
    )
