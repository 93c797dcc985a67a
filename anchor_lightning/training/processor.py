"""What the processor of a run can do."""

from __future__ import annotations

import platform

import torch


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (x86: AVX512_BF16, which those with AMX have as well)."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        # Where torch has no oneDNN, as on macOS, its convolutions have no fast path for bf16.
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())
