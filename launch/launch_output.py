"""Standard streams that outlive their reader; for programs that need the standard library only."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def open_closed_streams() -> None:
    """Let standard streams that were closed (``>&-``) lead nowhere; call it before any file is opened.

    Python has None for them, and the next file to be opened would get the number of standard error, and with it whatever
    libraries and child processes complain about.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
            os.set_inheritable(number, True)


def write(stream: TextIO, text: str) -> None:
    """Print at once; where nobody reads any more, nor a disk takes it, this and all that follows goes nowhere."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
