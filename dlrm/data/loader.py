"""From source and order to the batches of one rank, a few of them ready ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
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
        accumulation_steps: micro-batches of a global batch.
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
        accumulation_steps: int = 1,
    ) -> None:
        self.source = source
        self.order = order
        self._rank = rank
        self._world_size = world_size
        self._pin_memory = pin_memory
        self._prefetch_batches = prefetch_batches
        self._read_threads = read_threads
        self._check = SampleCheck(source)
        self._micro_order = order.micro_batches(accumulation_steps)

    @property
    def bad_values(self) -> BadValueCounts:
        """What was wrong with the samples read so far and let pass."""
        return self._check.counts

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """The rank's part of global batches ``start`` .. ``stop - 1`` of an epoch, read ahead in threads.

        Of each global batch its micro-batches; an epoch's last one, if it has fewer samples, may have fewer of them.

        Raises:
            DataError: from the place of the batch that cannot be read, after all batches before it.
        """
        made = (partial(self._micro_batch, epoch, k, j) for k in range(start, stop) for j in self._numbers(k))
        return read_ahead(made, depth=self._prefetch_batches, threads=self._read_threads)

    def batch(self, epoch: int, k: int) -> Batch:
        """The rank's part of global batch ``k``, whole."""
        return self._batch(self.order, epoch, k, global_samples=self.order.samples_in(k), ends_step=True)

    def _numbers(self, k: int) -> range:
        """The micro-batches of global batch ``k``."""
        return self.order.micro_numbers(k, self._micro_order)

    def _micro_batch(self, epoch: int, k: int, j: int) -> Batch:
        """Micro-batch ``j`` of the epoch, a part of global batch ``k``, over all of whose samples the loss is averaged."""
        ends_step = j + 1 == self._numbers(k).stop
        return self._batch(self._micro_order, epoch, j, global_samples=self.order.samples_in(k), ends_step=ends_step)

    def _batch(self, order: SampleOrder, epoch: int, k: int, *, global_samples: int, ends_step: bool) -> Batch:
        index_B = order.indices(epoch, k, self._rank, self._world_size)
        return make_batch(
            self._check(self.source.read(index_B), index_B),
            self.source.schema,
            size=order.rank_size(k, self._world_size),
            global_samples=global_samples,
            world_size=self._world_size,
            pin_memory=self._pin_memory,
            ends_step=ends_step,
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
