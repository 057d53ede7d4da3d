"""What this host is and has, as Linux says it."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")  # version 2; Linux, Documentation/admin-guide/cgroup-v2.rst
_CPUINFO = Path("/proc/cpuinfo")


def memory_bytes() -> int:
    """Memory of the host, or of the container where that is less."""
    total, limit = int(psutil.virtual_memory().total), _limit()
    return total if limit is None else min(total, limit)


def free_memory_bytes() -> int:
    """Memory that this process can still take, of the host and of the container.

    Files that were read or written count as used memory of a container until others need it; so what of them has not
    been used again is free.
    """
    free, limit = int(psutil.virtual_memory().available), _limit()
    if limit is None:
        return free
    try:
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        used -= int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return free
    return min(free, max(0, limit - used))


def _limit() -> int | None:
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no container, or "max": no limit
        return None


def processor(key: str) -> str:
    """What ``/proc/cpuinfo`` says of the first processor, e.g. under ``model name`` or ``flags``; empty if nothing."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
