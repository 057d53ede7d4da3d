"""What a result depends on beside configuration and data: versions, hardware and code."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from dlrm.distributed.versions import installed_version
from dlrm.distributed.world import World

_PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchx", "iopath", "numpy", "dlrm")
_COMMIT_VARIABLE = "DLRM_COMMIT"  # set in images (Dockerfile), which hold no .git
_MODIFIED = "-dirty"  # as git describe --dirty says it


def environment(world: World) -> dict[str, Any]:
    """Versions, hardware and code that a result depends on."""
    devices = []
    if world.device.type == "cuda":
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": package_versions(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3, 1),
        "device": world.device.type,
        "devices": devices,
        "cuda": torch.version.cuda,
        "backend": world.backend,
        "ranks": world.size,
        "threads_per_rank": torch.get_num_threads(),
        "git": _git_state(),
    }


def package_versions() -> dict[str, str]:
    """The packages that decide what is computed, as far as they are installed."""
    return {name: version for name in _PACKAGES if (version := installed_version(name)) is not None}


def _git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it, by git or by what an image's build was told; None where neither knows."""
    built_from = os.environ.get(_COMMIT_VARIABLE)
    if built_from:
        return {"commit": built_from.removesuffix(_MODIFIED), "modified": built_from.endswith(_MODIFIED)}
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changes = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode != 0:
        return None
    return {"commit": commit.stdout.strip(), "modified": bool(changes.stdout.strip())}
