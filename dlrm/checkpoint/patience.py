"""Asking storage again that is away for a moment: a mount whose server restarts, a store that is busy or out of reach."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from dlrm.checkpoint.storage import Storage, may_pass

_READING = ("names", "size", "read", "is_folder", "idle_s", "stamps")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
T = TypeVar("T")


class Patience:
    """Repeats what storage refuses for a reason that may pass, ever less often.

    Args:
        wait_s: how long, from the first failure of an action on; 0: not at all.
        say: is told a line when waiting begins, and one when it has ended well; whatever several threads wait for.
    """

    def __init__(self, wait_s: float, say: Callable[[str], None]) -> None:
        self._wait_s, self._say = wait_s, say
        self._lock, self._waiting_since = threading.Lock(), 0.0

    def __call__(self, action: Callable[[], T], path: str) -> T:
        """Return what ``action`` does, which reads at a path.

        Raises:
            OSError: that of ``action``, at once if it will not pass, or after ``wait_s``.
        """
        deadline, pause = 0.0, _FIRST_PAUSE_S
        while True:
            try:
                found = action()
            except OSError as error:
                now = time.monotonic()
                deadline = deadline or now + self._wait_s
                if now >= deadline or not may_pass(error):
                    raise
                self._begin(error, path)
                time.sleep(min(pause, deadline - now))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                if deadline:
                    self._end(path)
                return found

    def _begin(self, error: OSError, path: str) -> None:
        with self._lock:
            if not self._waiting_since:
                self._waiting_since = time.monotonic()
                words = error.strerror or error
                self._say(f"{path}: cannot be read now ({words}); waiting up to {self._wait_s:g} s for it")

    def _end(self, path: str) -> None:
        with self._lock:
            if self._waiting_since:
                waited_s = time.monotonic() - self._waiting_since
                self._waiting_since = 0.0
                self._say(f"{path}: can be read again, after {waited_s:.1f} s")


def patient(storage: Storage, patience: Patience) -> Storage:
    """The same storage; what is read from it is read with patience."""
    return cast(Storage, _Patient(storage, patience))


class _Patient:
    def __init__(self, storage: Storage, patience: Patience) -> None:
        self._storage, self._patience = storage, patience

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._storage, name)
        if name not in _READING:
            return operation
        return lambda path, *args: self._patience(partial(operation, path, *args), path)
