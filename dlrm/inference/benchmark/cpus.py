"""Which CPUs to compute on: all, or one of each core where a core has several (hyper-threads)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SYSFS = Path("/sys/devices/system/cpu")


def first_of_each_core(cpus: frozenset[int], root: Path = _SYSFS) -> frozenset[int]:
    """The lowest CPU of each core among these; all where nothing is known of them.

    Args:
        cpus: that may be used.
        root: of the system's files.
    """
    return frozenset(cpu for cpu in cpus if cpu == min(siblings(cpu, root) & cpus))


def siblings(cpu: int, root: Path = _SYSFS) -> frozenset[int]:
    """The CPUs of the core that a CPU is of, itself included."""
    try:
        text = (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        return parse_list(text) | {cpu}
    except (OSError, ValueError):
        return frozenset({cpu})


def parse_list(text: str) -> frozenset[int]:
    """The numbers in the kernel's notation: ``0-3,8``.

    Raises:
        ValueError: it is something else.
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


@contextmanager
def on_cpus(cpus: frozenset[int]) -> Iterator[None]:
    """All threads of this process, and those that they start, compute on these CPUs only; afterwards where they did."""
    before = os.sched_getaffinity(0)
    _set_affinity(cpus)
    try:
        yield
    finally:
        _set_affinity(before)


def _set_affinity(cpus: frozenset[int] | set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), cpus)
        except ProcessLookupError:  # it has ended
            continue
