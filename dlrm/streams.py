"""Standard streams that outlive their reader.

A person quits ``less``, ``tee`` dies, an ssh connection breaks, a terminal is closed, a disk gets full: a job of days must
not end because a line about it cannot be printed. A command whose output is the point may (``dlrm.command.failure``).
"""

from __future__ import annotations

import io
import os
import sys


def open_closed() -> None:
    """Let standard streams that were closed (``>&-``) lead nowhere; call it before any file is opened.

    Python has None for them, and the next file to be opened would get the number of standard error, and with it whatever
    libraries complain about.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def see_who_watches() -> None:
    """Have rich draw nothing for a terminal without a keyboard: ``srun --unbuffered`` gives its tasks one.

    Call it before rich is imported; launch/elastic.py does so for ranks.
    """
    if "SLURM_STEP_ID" in os.environ and not sys.stdin.isatty():
        os.environ.update(TTY_COMPATIBLE="0", TTY_INTERACTIVE="0")


def outlive_reader() -> None:
    """From now on standard output that cannot be written to leads nowhere, which the log says once.

    What somebody has put in the place of the process's own stream is theirs.
    """
    stdout = sys.stdout
    if stdout is sys.__stdout__ and isinstance(stdout, io.TextIOWrapper):
        sys.stdout = _LastingStream(
            stdout.detach(),
            encoding=stdout.encoding,
            errors=stdout.errors,
            line_buffering=stdout.line_buffering,
            write_through=stdout.write_through,
        )


class _LastingStream(io.TextIOWrapper):
    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lead_nowhere(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lead_nowhere(error)

    def _lead_nowhere(self, error: OSError) -> None:
        import logging  # not before signals are taken over

        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        text = "standard output cannot be written to any more (%s); nothing else is printed"
        logging.getLogger(__name__).info(text, error.strerror)
