"""Signals to the launcher: those that stop the job, and SIGUSR1, by which the ranks are asked to save (and to stop)."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

BUSY_S = 60.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """SIGTERM, SIGHUP and Ctrl-C: the first ends the ranks by SIGTERM, upon which they save; a second Ctrl-C kills them.

    torchelastic would pass each on as it is, and a rank that waits in C++ sees SIGINT late or never. It would also take
    over what is ignored: SIGHUP under nohup, SIGINT in a script's background.

    Args:
        leave: says by which signal the job has ended and gives the exit code.
    """

    def __init__(self, leave: Callable[[signal.Signals], int]) -> None:
        self._leave = leave
        self._raises = False
        self._interrupts = 0
        self.first: signal.Signals | None = None
        self.job_ends = False  # it does already, and why is known: another signal changes nothing
        self.ranks: Collection[int] = ()  # process ids, kept up to date by the launcher's loop

    def take_over(self) -> None:
        """Handle signals from now on, also those that the client has held back; this process ends at once."""
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOPPING, signal.SIGUSR1})

    def raise_from_now_on(self) -> None:
        """All is imported, where exceptions get lost: signals raise torchelastic's SignalException."""
        self._raises = True
        self.check()

    def left_to_torchelastic(self, names: str) -> str:
        """Of the signals in torchelastic's list those that it is to handle."""
        numbers = {name: getattr(signal, name.strip(), None) for name in names.split(",")}
        ours = {number for number in numbers.values() if number in STOPPING}
        ignored = {number for number in numbers.values() if number and signal.getsignal(number) == signal.SIG_IGN}
        return ",".join(name for name, number in numbers.items() if number not in ours | ignored)

    def check(self) -> None:
        """Raise what a signal has raised already, if that got lost in torchelastic."""
        if self.first is not None:
            from torch.distributed.elastic.multiprocessing import SignalException

            raise SignalException(self.first.name, sigval=signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.first = self.first, self.first or signal.Signals(number)
        self._interrupts += number == signal.SIGINT
        if not self._raises or self._interrupts > 1:
            self._end_now()
        if first is None and not self.job_ends:
            self.check()

    def _end_now(self) -> NoReturn:
        for pid in self.ranks:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # each leads a group of its own
        assert self.first is not None
        os._exit(self._leave(self.first))


class SaveRequests:
    """SIGUSR1, passed on to every rank once; one that does not listen yet, and would be ended by it, is waited for.

    Args:
        stops_in_s: asked when the signal comes: in how many seconds the ranks shall save and stop; None: they save and go
            on. Those that shall stop get SIGTERM as soon as they train: before, there is nothing to save, and another
            start would come as far. Where they have trained and do something else now, scores say, they are waited for
            for a minute.

    Attributes:
        trained: whether ranks have trained since this launcher started.
    """

    def __init__(self, stops_in_s: Callable[[], float | None] = lambda: None) -> None:
        self._stops_in_s = stops_in_s
        self._stop_at_s = math.inf
        self.trained = False
        self._asked = self._pending = False
        self._passed_on: set[int] = set()

    @property
    def stopping(self) -> bool:
        """Whether the ranks shall stop now."""
        return time.monotonic() >= self._stop_at_s

    def note(self, number: int, frame: object) -> None:
        """Handle the signal."""
        self._asked = True

    def pass_on(self, pids: Collection[int]) -> None:
        """Tell those of these ranks that listen and were not told yet; call it now and then."""
        self.trained = self.trained or any(_listens(pid, now=True) for pid in pids)
        if self._asked:
            self._asked, self._pending = False, True
            self._passed_on.clear()
            if (seconds := self._stops_in_s()) is not None:
                self._stop_at_s = min(self._stop_at_s, time.monotonic() + seconds)
        if not self._pending or (self._stop_at_s < math.inf and not self.stopping):
            return
        number = signal.SIGTERM if self.stopping else signal.SIGUSR1
        busy_for_long = self.trained and time.monotonic() > self._stop_at_s + BUSY_S
        for pid in pids:
            if pid not in self._passed_on and (busy_for_long or _listens(pid, now=self.stopping)):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                self._passed_on.add(pid)
        self._pending = not self._passed_on.issuperset(pids)


def _listens(pid: int, *, now: bool) -> bool:
    """Whether a process catches SIGUSR1 or, if not ``now``, holds it for later (sigwait in its main thread is not seen).

    Where the system does not say, yes.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return not sys.platform.startswith("linux")
    wanted = "SigCgt:" if now else ("SigCgt:", "SigBlk:")
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(wanted)]
    return any(mask >> (signal.SIGUSR1 - 1) & 1 for mask in masks)
