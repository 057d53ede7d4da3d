"""Signals by which schedulers and people ask training to save and, most of them, to stop.

SIGTERM and Ctrl-C ask for a save and an orderly end, SIGUSR1 for a save only. While a :class:`SignalWatch` is entered they
are remembered until training asks for them; a second Ctrl-C interrupts at once. Without one they do what they always do.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)
_SAVING = b"\ninterrupted: saving, then stopping (Ctrl-C again stops at once)\n"
_stop_seen = False


def stop_was_asked() -> bool:
    """Whether a signal to stop has come while somebody watched, in this process."""
    return _stop_seen


class SignalWatch:
    """Remembers signals; entered in the main thread, it takes them over, elsewhere it sees none.

    Args:
        announce: whether to tell a person who presses Ctrl-C what is going on.
    """

    def __init__(self, *, announce: bool) -> None:
        self._announce = announce
        self._stop = 0
        self._save = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for number in (*STOPPING, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    @property
    def stop(self) -> int:
        """The number of the first signal that asked to stop; 0: none did."""
        return self._stop

    def take_save(self) -> bool:
        """Whether SIGUSR1 has come since this was last asked."""
        asked, self._save = self._save, False
        return asked

    def _take(self, number: int, frame: FrameType | None) -> None:
        global _stop_seen  # who leaves after an error has no watch at hand, but must not wait once it was asked to stop
        if number == signal.SIGUSR1:
            self._save = True
            return
        if number == signal.SIGINT:
            if self._stop == signal.SIGINT:
                raise KeyboardInterrupt
            if self._announce:
                os.write(2, _SAVING)  # a print could wait for a lock that the interrupted code holds
        self._stop = self._stop or number
        _stop_seen = True
