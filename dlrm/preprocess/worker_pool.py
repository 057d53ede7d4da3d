"""Threads that work through tasks, of which the first failure in order ends all the others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

_LONGEST_WAIT_S = 5.0


class StoppedError(Exception):
    """A task gave up because another one failed, whose error is the one to report."""


class WorkerPool:
    """A number of threads, for the duration of a ``with`` block.

    Where the block ends with an error (Ctrl-C included) tasks that have not begun are dropped, and those that have are
    given a few seconds to end, so that they do not write to files that somebody else takes over. They may look at
    ``stop``.

    Args:
        threads: how many tasks run at a time.
        stop: set when the block has failed; shared by pools that belong together.
    """

    def __init__(self, threads: int, stop: threading.Event | None = None) -> None:
        self.stop = stop or threading.Event()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._running: set[Future[object]] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._pool.shutdown()
            return
        self.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = list(self._running)
        wait(running, timeout=_LONGEST_WAIT_S)

    def each(self, tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
        """The tasks' results in order; the tasks are taken from their iterable as threads become free.

        Several threads can hand in tasks at a time.

        Raises:
            BaseException: that of the first task in order that failed.
        """
        pending: deque[Future[T]] = deque()
        for task in tasks:
            pending.append(self._submit(task))
            while len(pending) > self._threads or (pending and pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _submit(self, task: Callable[[], T]) -> Future[T]:
        future = self._pool.submit(task)
        with self._lock:
            self._running.add(future)  # type: ignore[arg-type]  # a set of any futures
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: Future[T]) -> None:
        with self._lock:
            self._running.discard(future)
