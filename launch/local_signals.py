"""Signals to launch/local.py: before there is a job they end it, afterwards they are passed on to the job."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAKE_VARIABLE = "DLRM_MAKE"  # set by the Makefile: its process id
PATIENCE_S = 10.0  # for the job to end after a signal, beyond what TORCH_ELASTIC_SHUTDOWN_TIMEOUT gives its ranks
INSISTING_PATIENCE_S = 5.0  # after a second Ctrl-C
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def take_early() -> None:
    """Have signals end this process with a line; call it before anything slow is imported. SIGUSR1 is held."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for number in _not_ignored():
        signal.signal(number, _end)


def follow_make() -> None:
    """Be told by the kernel when make ends, even by SIGKILL, and even if it just has."""
    make = os.environ.get(MAKE_VARIABLE, "")
    if make.isdecimal() and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(make):
            _end(signal.SIGTERM, None)


def ended_by(number: int) -> str:
    """The line that says so."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"{ended_by(number)}\n".encode())
    os._exit(128 + number)


def _not_ignored() -> list[signal.Signals]:
    return [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]


class Signals:
    """What comes is remembered, and passed on to the launchers of the job (one, or one for each host that is played)."""

    def __init__(self) -> None:
        self._new: list[int] = []
        self._interrupts = 0
        self._kill_at_s = float("inf")
        self._not_ignored = _not_ignored()  # asked before torchx takes over what is ignored, too
        self.stopped_by = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Start the job in this block; no signal comes in it.

        The job inherits that and lets signals in when it can handle them, so that none ends it without a word.
        """
        held = {*STOPPING, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        yield
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)

    def take_over(self) -> None:
        """Remember what comes; call it when torchx's scheduler has been made, which takes signals over, too."""
        for number in STOPPING:
            signal.signal(number, self._note if number in self._not_ignored else signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._new.append(number)

    def pass_on(self) -> None:
        """Tell the launchers what has come; kill them if they do not end in time."""
        while self._new:
            number = self._new.pop(0)
            self._interrupts += number == signal.SIGINT
            if number == signal.SIGUSR1 or not self.stopped_by:
                _tell_launchers(number)
            elif self._interrupts == 2:
                _tell_launchers(number)
                self._kill_at_s = time.monotonic() + INSISTING_PATIENCE_S
            if number != signal.SIGUSR1 and not self.stopped_by:
                self.stopped_by = number
                patience_s = PATIENCE_S + float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT") or 0)
                self._kill_at_s = time.monotonic() + patience_s
        if time.monotonic() > self._kill_at_s:
            _tell_launchers(signal.SIGKILL)


def _tell_launchers(number: int) -> None:
    import psutil

    for launcher in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            launcher.send_signal(number)
