"""oneDNN in place of MKL for products in float32 on CPU.

torch gives these to MKL, which has kernels for AVX-512 on Intel's processors alone. oneDNN has them for all. It takes
tensors in a layout of its own, ``Tensor.to_mkldnn()``, which ``linear`` and ``relu`` pass on, forward and backward.
"""

from __future__ import annotations

from pathlib import Path

import torch

_PROCESSORS = Path("/proc/cpuinfo")


def is_faster_here() -> bool:
    """Whether this processor has AVX-512 and is AMD's: measured on Zen 4, where products take 0.8 times as long."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    return _PROCESSORS.exists() and "AuthenticAMD" in _PROCESSORS.read_text()


def takes(x_BN: torch.Tensor) -> bool:
    """Whether a layer's input can be given to it: float32 on CPU, not empty, not under autocast."""
    ordinary = x_BN.device.type == "cpu" and x_BN.dtype == torch.float32
    return ordinary and x_BN.numel() > 0 and not torch.is_autocast_enabled("cpu")
