"""What CUDA takes beside a step's tensors: small models, each with its source.

- Workspaces of cuBLAS and cuDNN come out of PyTorch's caching allocator, so they are in the trace's events.
- The context (kernels' code, driver state) does not; it is what a process holds before its first tensor.
"""

from __future__ import annotations

from lorac.estimate.cards import Card

MIB = 2**20

RUNTIME_WORKSPACE = ":4096:8"
"""CUBLAS_WORKSPACE_CONFIG as `runtime.run.deterministic` sets it, where nobody set it before: 8 buffers of 4096 KiB."""


def cublas_workspace(capability: tuple[int, int], config: str = "") -> int:
    """Bytes that a cuBLAS handle keeps on a stream (`parseChosenWorkspaceSize`, ATen/cuda/CublasHandlePool.cpp).

    `config` is CUBLAS_WORKSPACE_CONFIG, `:KiB:COUNT` once or more; without it `:4096:2:16:8`, and 32 MiB on compute
    9.0. One handle serves the forward and one the backward: the autograd engine runs a CUDA backward in its own
    thread, and handles are per thread (DeviceThreadHandlePool.h). cuBLASLt works in the same buffer
    (torch/backends/cuda, TORCH_CUBLASLT_UNIFIED_WORKSPACE, which is on by default).
    """
    if not config:
        config = ":4096:8" if capability == (9, 0) else ":4096:2:16:8"
    numbers = [int(number) for number in config.removeprefix(":").split(":")]
    return 1024 * sum(size * count for size, count in zip(numbers[::2], numbers[1::2], strict=True))


CONTEXT_PER_MULTIPROCESSOR = int(3.9 * MIB)
"""Bytes of a process's context, with PyTorch's libraries, for each multiprocessor (stacks, printf and heap
buffers are made for every one). From out-of-memory messages, "this process has" less PyTorch's own: RTX 4090
(128) 503, 471 and 451 MiB (3DTopia/Phidias-Diffusion#8, pinokiofactory/flux-webui#11,
Soul-AILab/SoulX-FlashTalk#5), L40 (142) 507 (QwenLM/Qwen3-VL#2097), L40S (142) 420
(stepfun-ai/Step-Video-T2V#8), T4 (40) 133, 130 and 102 (Zheng-Chong/CatVTON #133, QwenLM/Qwen3-VL#1046,
mbzuai-oryx/GeoPixel#5): 2.6 to 3.9 MiB each; the largest is taken."""


def overhead(card: Card) -> int:
    """Bytes of the card that PyTorch's allocator never sees: the context. Workspaces are in the trace."""
    return card.multiprocessors * CONTEXT_PER_MULTIPROCESSOR if card.device == "cuda" else 0
