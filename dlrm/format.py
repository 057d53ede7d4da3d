"""Numbers, and text that somebody else wrote, as people read them."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable
from typing import Any

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


def printable(text: str, *, keep: str = "") -> str:
    r"""Text in which nothing is left that a terminal would obey or that would begin another line.

    Control characters, line breaks, marks that turn the direction of writing and the like become what Python writes for
    them: ``\x1b``, ``\n``, ``\u202e``.

    Args:
        text: any; column names, cell values and file names are the user's, or a stranger's.
        keep: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def escaped(value: Any, longest: int = 100) -> str:
    """:func:`printable` text of at most ``longest`` characters."""
    shown = printable(str(value))
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def first_line(error: BaseException) -> str:
    """What an error says, up to the first line break; its type if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The one of ``names`` that is spelled most like ``name``, upper and lower case alike; empty if none is.

    Args:
        name: as somebody wrote it.
        names: that there are.
        cutoff: how alike they must be, as of :func:`difflib.get_close_matches`: 0 for anything, 1 for equal.
    """
    spelled = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=cutoff)
    return spelled[close[0]] if close else ""


def did_you_mean(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``did you mean cat_3?`` of the :func:`nearest`; empty if there is none."""
    found = nearest(name, names, cutoff=cutoff)
    return f"did you mean {found}?" if found else ""
