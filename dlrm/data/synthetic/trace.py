"""Streams of ids that repeat as in a profile (arXiv:1906.00091, section 5), for a table of any size.

The distances of a stream are independent draws from the profile, cold references included with their share; what becomes
of a distance that the stream is too young or the table too small for is :class:`dlrm.data.synthetic.lru_stack.LruStack`'s.
A stream as long as the profiled one or longer therefore has the profile's distances and LRU hit rates; a shorter one
those of a beginning, with more cold references. In a longer one new ids keep coming at the profiled rate until the
table has no more. Nothing is scaled to the table: a cache of 1,000 rows has the same hit rate whatever its size.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.counter_rng import integers, stream_key
from dlrm.data.permutation import permuted
from dlrm.data.synthetic.lru_stack import LruStack
from dlrm.data.synthetic.trace_profile import ColumnProfile

_CHUNK_IDS = 16_384  # few enough for torch to use one thread: streams of other tables keep the others busy


class TraceStream:
    """An endless stream of ids, a pure function of its arguments.

    Which rows of the table are in use, and hot, is a pseudo-random permutation's choice. Memory: some 40 bytes an id in
    use, whatever the length.

    Args:
        column: the profile to repeat.
        rows: of the table, below 2^31.
        seed: of the draws and of the permutation.
        table: number of the table; each has a stream of its own.
    """

    def __init__(self, column: ColumnProfile, *, rows: int, seed: int, table: int) -> None:
        self._column = column
        self._rows = rows
        self._draw_key = stream_key(seed, "trace", table, "distances")
        self._row_key = stream_key(seed, "trace", table, "rows")
        self._stack = LruStack(rows)
        self._row_of = np.empty(0, np.int32)
        self._drawn = 0

    @property
    def distinct(self) -> int:
        """Rows in use so far."""
        return self._stack.depth

    def take(self, count: int) -> NDArray[np.int32]:
        """The next ``count`` ids."""
        ids_M = np.empty(count, np.int32)
        for start in range(0, count, _CHUNK_IDS):
            chunk_M = ids_M[start : start + _CHUNK_IDS]
            drawn_M = integers(
                self._draw_key, torch.arange(self._drawn, self._drawn + len(chunk_M)), self._column.references
            )
            numbers_M = self._stack.replay(self._column.distances(drawn_M.numpy()))
            self._name_rows()
            np.take(self._row_of, numbers_M, out=chunk_M)
            self._drawn += len(chunk_M)
        return ids_M

    def _name_rows(self) -> None:
        """Give a row of the table to each id that the stack has numbered since."""
        named, depth = len(self._row_of), self._stack.depth
        if depth > named:
            numbers = torch.arange(named, min(max(2 * named, depth), self._rows))
            rows = permuted(numbers, self._rows, self._row_key).numpy().astype(np.int32)
            self._row_of = np.concatenate([self._row_of, rows])
