"""Preprocessing on a disk that fails at a chosen call."""

import contextlib
import errno
import os
import threading

import pytest

from dlrm.errors import DataError
from tests.unit.preprocess.tiny_criteo import make

# Calls by which something becomes durable or gets its name. A job that fails, or dies, right before any of them has to
# go on from there.
CALLS = ("pwrite", "replace", "fsync", "fdatasync", "unlink", "truncate")


class FaultyDisk:
    """Acts before every one of :data:`CALLS` from number ``at`` on (or just that one)."""

    def __init__(self, at, act, *, once=False):
        self._once = once
        self._at, self._act, self._count, self._lock = at, act, 0, threading.Lock()

    def __enter__(self):
        self._real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._faulty(self._real[name]))
        return self

    def __exit__(self, *_):
        for name, call in self._real.items():
            setattr(os, name, call)

    def _faulty(self, call):
        def instead(*arguments, **keywords):
            with self._lock:
                self._count += 1
                count = self._count
            if count == self._at or (count > self._at and not self._once):
                self._act()
            return call(*arguments, **keywords)

        return instead


def full_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_at(raw, output, at, shuffle=False, **changes):
    """Whether a job on a disk that is full from some call on got to its end; if not, it said so in one line."""
    with contextlib.ExitStack() as stack:
        error = stack.enter_context(pytest.raises(DataError, match=r"\A.*No space left on device.*\Z"))
        with FaultyDisk(at, full_disk):
            make(raw, output, shuffle=shuffle, workers=1, **changes)
        stack.pop_all()
        return True
    assert error
    return False
