"""What CUDA takes beside a step's tensors: small models, each with its source.

- Workspaces of cuBLAS and cuDNN come out of PyTorch's caching allocator, so they are in the trace's events.
- The context (kernels' code, driver state) does not; it is what a process holds before its first tensor.
"""

from __future__ import annotations

MIB = 2**20

LT_WORKSPACE = MIB
"""cuBLASLt's, of each fused call (`_parseChosenWorkspaceSize`, aten/src/ATen/cuda/CUDABlas.cpp: 1024 KiB)."""


def cublas_workspace(capability: tuple[int, int]) -> int:
    """Bytes that a cuBLAS handle keeps: `:4096:2:16:8`, or 32 MiB on compute 9.0 (`parseChosenWorkspaceSize`,
    aten/src/ATen/cuda/CublasHandlePool.cpp). One handle serves the forward and one the backward: the autograd
    engine runs a CUDA backward in its own thread, and handles are per thread (DeviceThreadHandlePool.h)."""
    return 32 * MIB if capability == (9, 0) else (4096 * 2 + 16 * 8) * 1024
