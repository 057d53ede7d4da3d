"""Whether the process that made something is surely dead, so that what it left unfinished can be removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def this_process() -> bytes:
    """Text by which :func:`is_surely_dead` knows this process again."""
    return json.dumps({"place": _place(), "pid": os.getpid(), "started": _started(os.getpid())}).encode()


def process_mark(pid: int) -> str | None:
    """What tells a living process from every other that there has been on any host; None where that cannot be known."""
    place, started = _place(), _started(pid)
    return None if place is None or started is None else f"{place} {pid} {started}"


def is_surely_dead(owner: bytes | bytearray) -> bool:
    """Whether the process that :func:`this_process` described is gone; False where that cannot be known from here."""
    try:
        return process_lives(json.loads(owner)) is False
    except (ValueError, RecursionError):
        return False


def process_lives(owner: Any) -> bool | None:
    """Whether the process that :func:`this_process` described lives, given its JSON; None where that cannot be known.

    It can be known in the same system boot and process namespace alone: another host, or container, may be anything.
    """
    try:
        place, pid, started = owner["place"], owner["pid"], owner["started"]
    except (TypeError, KeyError, IndexError):
        return None
    if place is None or place != _place() or type(pid) is not int or type(started) is not int:
        return None
    return _started(pid) == started


def _place() -> str | None:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None  # no Linux: nothing is surely dead


def _started(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot (proc(5), field 22); None: there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
