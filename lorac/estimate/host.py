"""Main memory of the process that runs a plan: what Python and its libraries take, and what passes through or waits.

On a CPU this memory is the card's too: the tensors of each phase's peak are counted in it.
"""

from __future__ import annotations

from lorac.estimate.record import Trace
from runtime import plan

MIB = 2**20

PROCESS = 970 * MIB
"""Resident bytes of a run's process beside its tensors: 855 MiB once all is imported, with a tokenizer and its first
products; 967 at most over the runs of docs/phases.md, with what its allocator and oneDNN hold (VmHWM of
/proc/self/status; torch 2.14.1+cu130, diffusers 0.42.1, transformers 5.23, Linux, `just validate-phases`)."""

CUDA_PROCESS = 1717 * MIB
"""What more a process has resident once it computes on a GPU: 1122 MiB with the first tensor there and 594 MiB with
the first convolution (memory_profiler, pytorch/pytorch#12873). That was before CUDA loaded its kernels lazily, so it
is more than a new version takes; it was not measured by us."""


def process_bytes(device: str) -> int:
    """What the process has before its first tensor."""
    return PROCESS + (CUDA_PROCESS if device == "cuda" else 0)


def traced_bytes(trace: Trace, phase: str) -> int:
    """The most that a phase's tensors take of main memory beside the device's.

    Blocks made before the first step are offloaded weights, pinned for the copy to the device.
    """
    live = trace.host_phases[phase].live
    return sum(pinned(block.bytes) if block.phase == "make" else block.bytes for block in live)


def pinned(size: int) -> int:
    """Bytes of a pinned tensor: the next power of two (`CachingHostAllocatorImpl::allocate`, `PowerOf2Ceil`,
    aten/src/ATen/core/CachingHostAllocator.h)."""
    return 1 << (size - 1).bit_length() if size else 0


def picture_bytes(program: plan.Program, outputs: plan.Outputs | None, phase: str) -> int:
    """Pictures that are no tensors: the one that is read, decoded and converted; those that are drawn, at the end
    with the base's beside them and both on a sheet."""
    if phase == "cache" and isinstance(program.data, plan.Images):
        return 2 * 3 * max((item.width * item.height for item in plan.every_item(program.data)), default=0)
    if phase == "sample" and outputs is not None and isinstance(outputs.samples, plan.Samples):
        samples = outputs.samples
        return 4 * 3 * samples.width * samples.height * len(samples.prompts)
    return 0
