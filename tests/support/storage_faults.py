"""A file system that fails: at the n-th call, in a chosen way, for what :mod:`dlrm.checkpoint.storage` asks of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

CALLS = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink", "listdir", "lstat", "fstat", "preadv")
"""What is counted and can fail."""
_FILLING = ("write", "mkdir", "rename")

Fault = Literal["EIO", "ENOSPC", "full disk", "torn write", "killed", "killed in a write"]
FAULTS: tuple[Fault, ...] = ("EIO", "ENOSPC", "full disk", "torn write", "killed", "killed in a write")
"""Once EIO or ENOSPC; ENOSPC at every write from the n-th call on; half a write, then EIO; the end of the process at the
n-th call, in the last case after half a write."""


class Killed(BaseException):
    """The process is dead: every further call raises this again."""


class FaultySystem:
    """Stands for the module ``os``; the call number ``at`` (from 0) fails.

    Attributes:
        calls: how many there were; hit: whether the fault came to pass.
    """

    def __init__(self, at: int = -1, fault: Fault = "EIO") -> None:
        self.at, self.fault, self.calls, self.hit = at, fault, 0, False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counted(name, real) if name in CALLS else real

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            if self.at >= 0 and number >= self.at:
                self._strike(name, args, first=number == self.at)
            return real(*args, **options)

        return call

    def _strike(self, name: str, args: tuple[Any, ...], *, first: bool) -> None:
        if self.fault.startswith("killed"):
            if name == "write" and first and self.fault == "killed in a write":
                os.write(args[0], args[1][: len(args[1]) // 2])
            self.hit = True
            raise Killed
        if self.fault == "full disk":
            if name in _FILLING or (name == "open" and args[1] & os.O_CREAT):
                self.hit = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif first and (name == "write" or self.fault != "torn write"):
            if self.fault == "torn write":
                os.write(args[0], args[1][: len(args[1]) // 2])
            if name == "close":
                os.close(args[0])  # as Linux does: a close that fails has closed
            self.hit = True
            code = errno.ENOSPC if self.fault == "ENOSPC" else errno.EIO
            raise OSError(code, os.strerror(code))


@contextmanager
def faulty_storage(at: int = -1, fault: Fault = "EIO") -> Iterator[FaultySystem]:
    """Let the local storage of checkpoints fail for the duration of the block; without ``at`` only count its calls."""
    system = FaultySystem(at, fault)
    with mock.patch("dlrm.checkpoint.storage.os", system):
        yield system
