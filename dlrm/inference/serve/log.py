"""What a server says: a line for each thing that happens, on standard output.

It is said in the event loop, and whoever is to read it may not: a line for which a pipe has no room is dropped and counted,
because all requests would wait with it.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time
from typing import Any

from dlrm.format import local_time, printable

_MOST_BYTES = select.PIPE_BUF  # a pipe that is ready takes so many without waiting
_CUT = "...\n"
_lock = threading.Lock()  # between the look at a pipe and writing to it no other thread may fill it
_dropped = 0


def say(line: str) -> None:
    """A line with the time."""
    _write(f"{local_time(time.time())} {printable(line)}\n")


def say_record(**values: Any) -> None:
    """A line of JSON."""
    _write(f"{json.dumps(values)}\n")


def _write(line: str) -> None:
    global _dropped
    with _lock:
        if not _is_ready():
            _dropped += 1
            return
        if _dropped:
            line = f"{local_time(time.time())} {_dropped} lines before this one were dropped: nobody read them\n{line}"
            _dropped = 0
        if len(line.encode(errors="replace")) > _MOST_BYTES:
            line = line.encode(errors="replace")[: _MOST_BYTES - len(_CUT)].decode(errors="ignore") + _CUT
        sys.stdout.write(line)
        sys.stdout.flush()


def _is_ready() -> bool:
    """Whether standard output takes a line at once; what has no descriptor does."""
    try:
        number = sys.stdout.fileno()
    except OSError:
        return True
    ready = select.poll()
    ready.register(number, select.POLLOUT)
    return [event for _, event in ready.poll(0)] == [select.POLLOUT]  # and no error: nobody can read it any more
