"""How the C library treats memory that was freed."""

from __future__ import annotations

import ctypes

# glibc's M_ARENA_MAX, M_MMAP_MAX (no array gets pages of its own, to be given back with it), M_TRIM_THRESHOLD (never)
_MALLOC_OPTIONS = ((-8, 1), (-4, 0), (-1, 2**31 - 1))


def keep_freed_memory() -> None:
    """Have glibc keep freed arrays for later ones, in one arena for all threads.

    Arrays of many megabytes come and go in each step or chunk. Pages that come anew are filled with zeros first: a tenth of
    the processor time of preprocessing, and of training on two ranks. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS:
            mallopt(option, value)
