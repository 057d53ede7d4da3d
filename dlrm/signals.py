"""Signals by which schedulers, terminals and people ask training to save and, most of them, to stop.

SIGTERM, SIGHUP (the terminal has closed) and Ctrl-C ask for a save and an orderly end, SIGUSR1 for a save only. While a
:class:`SignalWatch` is entered they are remembered until training asks for them; a second Ctrl-C interrupts at once.
Without one they do what they always do, unless the process has called :func:`take_early`. What is ignored stays so:
SIGHUP under nohup, Ctrl-C in the background of a script.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_AT_ONCE = (signal.SIGTERM, signal.SIGHUP)
_SAVING = b"\ninterrupted: saving, then stopping (Ctrl-C again stops at once)\n"
_ENDS = {
    signal.SIGTERM: b"stopped by SIGTERM\n",
    signal.SIGHUP: b"stopped by SIGHUP\n",
    signal.SIGINT: b"interrupted\n",
}
_stop_seen = False
_ending = threading.Lock()


def _tell_nobody(name: str) -> None:
    """Nothing."""


_tell: Callable[[str], None] = _tell_nobody


def take_early() -> None:
    """Take signals over as long as nobody watches; call it in the main thread, before anything slow is imported.

    SIGUSR1 is held until a watch is entered. SIGTERM and SIGHUP end the process at once, whatever it waits for, with a
    line; those of torchelastic's agent as ever, because it says itself why ranks end. Ctrl-C ends it at once, with a line,
    until :func:`raise_on_ctrl_c`: an exception may get lost in an import, or be printed by it. What is ignored stays so.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    if not _has_agent():
        _end_at_once()


def tell_before_end(tell: Callable[[str], None]) -> None:
    """Have ``tell`` called with the name of a signal that ends this process at once; call it in the main thread.

    It may be called in any thread. A rank of torchelastic's agent dies of the signal all the same, as the agent expects.
    """
    global _tell
    _tell = tell
    if _has_agent() and threading.current_thread() is threading.main_thread():
        _end_at_once()


def _end_at_once() -> None:
    """Have :func:`_end` called for what would end this process without a word."""
    taken = [number for number in _AT_ONCE if signal.getsignal(number) is signal.SIG_DFL]
    if not taken:
        return
    for number in taken:
        signal.signal(number, _end)
    # Python calls a handler when the main thread is back from C++, which may wait minutes for other ranks. Meanwhile
    # another thread is told through a pipe.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_await_end, args=(reading, taken), name="signals", daemon=True).start()


def raise_on_ctrl_c() -> None:
    """Everything is imported: from here on Ctrl-C is a KeyboardInterrupt again, if :func:`take_early` has changed that."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _await_end(reading: int, ending: Collection[int]) -> None:
    while True:
        for number in os.read(reading, 64):
            if number in ending:
                _end(number, None)


def _end(number: int, frame: FrameType | None) -> None:
    if not _ending.acquire(blocking=False):  # the other thread does it
        return
    with suppress(Exception):  # whatever it came upon: this is the end
        _tell(signal.Signals(number).name)
    if _has_agent():
        _die_of(number)
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, _ENDS[signal.Signals(number)])
    os._exit(128 + number)


def _die_of(number: int) -> None:
    """What the signal does where nobody has taken it over; Python lets the main thread alone say so."""
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    set_handler(number, None)  # SIG_DFL
    os.kill(os.getpid(), number)
    time.sleep(1.0)  # it is delivered to whatever thread


def _has_agent() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


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
        self._wakeup, self._held = -1, False

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for number in (*STOPPING, signal.SIGUSR1):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
            self._wakeup = signal.set_wakeup_fd(-1)
            self._held = signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._before:
            return
        if self._held:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        while self._before:
            signal.signal(*self._before.popitem())
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)

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
                with suppress(OSError):
                    os.write(2, _SAVING)  # a print could wait for a lock that the interrupted code holds
        self._stop = self._stop or number
        _stop_seen = True
