"""From source and order to the batches of one rank, a few of them ready ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

from dlrm.data.batch import Batch, make_batch
from dlrm.data.check import SampleCheck
from dlrm.data.order import SampleOrder
from dlrm.data.source import Source

T = TypeVar("T")


class BatchLoader:
    """The batches of one rank, at any position of any epoch.

    Args:
        source: where samples come from.
        order: which samples form which global batch.
        rank, world_size: whose part of each global batch.
        pin_memory: keep batches in page-locked memory (for CUDA).
        prefetch_batches: batches that a background thread keeps ready.
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
    ) -> None:
        self.source = source
        self.order = order
        self._rank = rank
        self._world_size = world_size
        self._pin_memory = pin_memory
        self._prefetch_batches = prefetch_batches
        self._check = SampleCheck(source.schema, source.name)

    def batches(self, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """The rank's part of global batches ``start`` .. ``stop - 1`` of an epoch, read ahead in a thread.

        Raises:
            DataError: from the place of the batch that cannot be read, after all batches before it.
        """
        return read_ahead((self.batch(epoch, k) for k in range(start, stop)), self._prefetch_batches)

    def batch(self, epoch: int, k: int) -> Batch:
        """The rank's part of global batch ``k``."""
        index_B = self.order.indices(epoch, k, self._rank, self._world_size)
        samples = self._check(self.source.read(index_B), index_B)
        batch = make_batch(
            samples,
            self.source.schema,
            size=self.order.rank_size(k, self._world_size),
            global_samples=self.order.samples_in(k),
            world_size=self._world_size,
        )
        return batch.pin_memory() if self._pin_memory else batch


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def read_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, up to ``depth`` of them produced ahead by a thread; an error is raised at the item's place.

    The thread ends when the items do or when the consumer closes the iterator.
    """
    ready: queue.Queue[T | _Failure | None] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def offer(item: T | _Failure | None) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue  # the consumer may have gone meanwhile

    def produce() -> None:
        try:
            for item in items:
                offer(item)
                if closed.is_set():
                    return
            offer(None)
        except BaseException as error:  # travels to the consumer, who raises it
            offer(_Failure(error))

    threading.Thread(target=produce, name="read-ahead", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        closed.set()
