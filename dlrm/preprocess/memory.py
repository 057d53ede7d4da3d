"""Memory that a process has used once stays its own, so that its next use costs nothing.

Chunks and buckets are arrays of some megabytes that come and go. Given back to the kernel each time, they come back as
pages that it has to fill with zeros first, and a virtual machine may have to fetch them from its host before: a quarter
of preprocessing's processor time went there.
"""

from __future__ import annotations

import ctypes
import gc
import threading

import numpy as np
import numpy.typing as npt

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_LARGEST_THRESHOLD = 32 << 20  # larger ones glibc refuses
_NEVER = 2**31 - 1
_GROWTH_BYTES = 64 << 20


def keep_freed_memory() -> None:
    """Have the C library keep freed arrays of up to 32 MiB for later ones of this process; nothing where it is not glibc.

    One arena, so that what one thread frees serves all of them. What was imported is left out of garbage collections.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        mallopt(_M_TOP_PAD, _GROWTH_BYTES)
    gc.freeze()


class Scratch(threading.local):
    """A large array for each thread, used again and again.

    It is made an eighth larger than asked for: what is asked for next is nearly as large, and arrays that give way to ones
    that are a little larger leave holes that nothing fits into.
    """

    def __init__(self) -> None:
        self._words = np.empty(0, np.uint32)

    def words(self, rows: int, columns: int) -> npt.NDArray[np.uint32]:
        """uint32 (rows, columns) of any values; the thread's array before is overwritten."""
        if self._words.size < rows * columns:
            self._words = np.empty(rows * columns * 9 // 8, np.uint32)
        return self._words[: rows * columns].reshape(rows, columns)
