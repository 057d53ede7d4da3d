"""Numbers as people read them."""

from __future__ import annotations

import time

_BYTE_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def byte_size(value: float) -> str:
    """A number of bytes: ``1.5 GiB``."""
    for size, unit in _BYTE_UNITS:
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def counted(number: int, noun: str) -> str:
    """``1 part``, ``24 parts``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def local_time(seconds: float) -> str:
    """Seconds since the epoch as this host's date and time: ``2026-11-28 17:35:04``.

    Raises:
        OverflowError, ValueError, OSError: beyond the calendar.
    """
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
