"""Memory that a thread uses again and again."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt


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
