"""From source and order to the batches of one rank, a few of them ready ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dlrm.activity import READER_THREADS
from dlrm.data.batch import Batch, make_batch
from dlrm.data.check import BadValueCounts, SampleCheck
from dlrm.data.order import SampleOrder
from dlrm.data.source import Source

T = TypeVar("T")

THREAD_NAME = READER_THREADS


class BatchLoader:
    """The batches of one rank, at any position of any epoch.

    Batches are made of fresh tensors. Their memory is reused all the same: by the C library's heap and, where it is
    page-locked, by torch's caching allocator for such memory, which know when a batch is no longer in use.

    Args:
        source: where samples come from.
        order: which samples form which global batch.
        rank, world_size: whose part of each global batch.
        pin_memory: keep batches in page-locked memory (for CUDA).
        prefetch_batches: batches that are made ahead of the one in use.
        read_threads: threads that make them.
    """

    def __init__(
        self,
        source: Source,
        order: SampleOrder,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        prefetch_batches: int = 2,
        read_threads: int = 1,
    ) -> None:
        self.source = source
        self.order = order
        self._rank = rank
        self._world_size = world_size
        self._pin_memory = pin_memory
        self._prefetch_batches = prefetch_batches
        self._read_threads = read_threads
        self._check = SampleCheck(source)

    @property
    def bad_values(self) -> BadValueCounts:
        """What was wrong with the samples read so far and let pass."""
        return self._check.counts

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """The rank's part of global batches ``start`` .. ``stop - 1`` of an epoch, read ahead in threads.

        Raises:
            DataError: from the place of the batch that cannot be read, after all batches before it.
        """
        made = (lambda k=k: self.batch(epoch, k) for k in range(start, stop))
        return read_ahead(made, depth=self._prefetch_batches, threads=self._read_threads)

    def batch(self, epoch: int, k: int) -> Batch:
        """The rank's part of global batch ``k``."""
        index_B = self.order.indices(epoch, k, self._rank, self._world_size)
        return make_batch(
            self._check(self.source.read(index_B), index_B),
            self.source.schema,
            size=self.order.rank_size(k, self._world_size),
            global_samples=self.order.samples_in(k),
            world_size=self._world_size,
            pin_memory=self._pin_memory,
        )


def read_ahead(calls: Iterator[Callable[[], T]], *, depth: int, threads: int) -> Iterator[T]:
    """What the calls return, in their order, up to ``depth`` of them called ahead of their use in threads.

    What a call raises is raised at its place. The threads end when all is consumed or the consumer closes the iterator,
    which waits for no more than the calls already running.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME) as pool:
        ahead: deque[Future[T]] = deque()
        try:
            for call in calls:
                ahead.append(pool.submit(call))
                if len(ahead) > depth:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
