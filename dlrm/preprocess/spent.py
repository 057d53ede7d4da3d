"""Room that is given back while parts are written: parsed rows whose buckets are all in parts on the disk.

A chunk's records lie by bucket, so buckets are drawn from the last one on and chunks get shorter from their ends. That
nearly halves the disk that a shuffle takes, and what was cut off before the system got round to writing it out never is.
(Holes in place of single buckets would have to be written out first, which took a quarter of a job's time.) A cut takes a
call for every chunk, so there are few of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

from dlrm.preprocess.buckets import Buckets
from dlrm.preprocess.disk import CUTS
from dlrm.preprocess.rows import Draw


class Spent:
    """Cuts off buckets that are not needed any more; for several threads.

    Args:
        buckets: of the job.
        draws: all of the job, of every rank.
        done: those whose rows are on the disk.
        cuts: whether to cut; no, where other ranks may need a bucket, whatever is done here.

    Raises:
        DataError: a chunk is shorter than what is left to do needs.
    """

    def __init__(self, buckets: Buckets, draws: Sequence[Draw], done: Iterable[Draw], *, cuts: bool) -> None:
        self._buckets, self._cuts = buckets, cuts
        self._left = Counter(draw.bucket for draw in draws)
        self._needed = self._kept = len(buckets.rows)  # buckets: that are needed, and that were left at the last cut
        self._lock = threading.Lock()
        self._settle(done)
        buckets.check_kept(self._needed)

    def settle(self, draws: Iterable[Draw]) -> None:
        """The rows of some draws are on the disk."""
        with self._lock:
            self._settle(draws)
            if (
                self._cuts
                and self._needed < self._kept
                and self._kept - self._needed >= len(self._buckets.rows) // CUTS
            ):
                self._buckets.cut(self._needed)
                self._kept = self._needed

    def _settle(self, draws: Iterable[Draw]) -> None:
        self._left.subtract(draw.bucket for draw in draws)
        while self._needed and not self._left[self._needed - 1]:
            self._needed -= 1
