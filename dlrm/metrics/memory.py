"""Peak memory of this process, on the host and on its CUDA device."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

_GIB = 1 << 30
_PROC_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class PeakMemory:
    """Highest memory since the process started, GiB.

    Attributes:
        resident_gib: resident set of this process, pages shared with others included.
        device_allocated_gib: memory of tensors on the device; None without a CUDA device.
        device_reserved_gib: memory that torch's allocator took from the device; None without a CUDA device.
    """

    resident_gib: float
    device_allocated_gib: float | None = None
    device_reserved_gib: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def peak_memory(device: torch.device) -> PeakMemory:
    """The peak so far of this process and of ``device`` (any kind; only CUDA devices have figures of their own)."""
    resident_gib = _peak_resident_bytes() / _GIB
    if device.type != "cuda":
        return PeakMemory(resident_gib)
    return PeakMemory(
        resident_gib,
        device_allocated_gib=torch.cuda.max_memory_allocated(device) / _GIB,
        device_reserved_gib=torch.cuda.max_memory_reserved(device) / _GIB,
    )


def resident_bytes() -> int:
    """The resident set of this process now; where the system does not say, at its peak."""
    now = _proc_status("VmRSS:")
    return _peak_resident_bytes() if now is None else now


def _proc_status(name: str) -> int | None:
    if not _PROC_STATUS.exists():
        return None
    lines = (line.split() for line in _PROC_STATUS.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == name), None)


def _peak_resident_bytes() -> int:
    # Preferred to getrusage, whose figure outlives exec: a worker's would be at least that of its launcher when it forked.
    if (highest := _proc_status("VmHWM:")) is not None:
        return highest
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
