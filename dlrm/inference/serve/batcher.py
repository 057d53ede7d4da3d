"""Threads that answer requests, as many at once as wait: dynamic batching.

The common case, one model and no HTTP::

    with Batcher(open_predictor("exports/ctr")) as batcher:
        future = batcher.submit(features)  # from any thread
        probabilities_BT = future.result()

Several models share threads: ``Batcher(predictor, workers=workers)`` for each.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.inference.features import Features
from dlrm.inference.serve.waiting import Batch, ClosedError, Limits, Queue, Request, Schedule
from dlrm.schema import Schema

Probabilities = NDArray[np.float32]
"""(n, T): of each row, of each task."""


class Model(Protocol):
    """What answers: a :class:`~dlrm.inference.exported.predictor.Predictor`; any number of threads call it at once."""

    schema: Schema

    def probabilities(self, features: Features) -> torch.Tensor:
        """float32 (B, T)."""


class FutureRequest(Request):
    """A request whose answer is a future's result."""

    __slots__ = ("future",)

    def __init__(self, features: Features, deadline_s: float) -> None:
        super().__init__(features, deadline_s)
        self.future: Future[Probabilities] = Future()

    def begin(self) -> bool:
        """Whether the future was not cancelled; from now on it cannot be."""
        return self.future.set_running_or_notify_cancel()


def deliver_futures(requests: Sequence[Request]) -> None:
    """Give futures their results."""
    for request in requests:
        assert isinstance(request, FutureRequest)
        future = request.future
        if not future.running() and not future.set_running_or_notify_cancel():  # cancelled while it waited
            continue
        if request.error is not None:
            future.set_exception(request.error)
        else:
            assert request.result is not None
            future.set_result(request.result)


def _tell_nobody(batch: Batch, started_s: float, ended_s: float) -> None:
    """Nothing."""


class Workers:
    """Threads that compute the batches of all models that share them.

    Args:
        limits: of batches and queues.
        threads: how many; 0: one for each core that this process may use. Each computes with one thread of torch.
        deliver: told of requests that are finished, by the thread that has finished them; of each once, unless nobody
            wants it any more.
        observe: told of each batch that was computed, with the times before and after, before its requests are delivered.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        threads: int = 0,
        deliver: Callable[[Sequence[Request]], None] = deliver_futures,
        observe: Callable[[Batch, float, float], None] = _tell_nobody,
    ) -> None:
        self.limits = limits or Limits()
        self._deliver, self._observe = deliver, observe
        self._schedule = Schedule(self.limits)
        self._ready = threading.Condition(threading.Lock())  # guards the schedule and what follows
        self._idle = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"compute-{number}", daemon=True)
            for number in range(threads or len(os.sched_getaffinity(0)))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def threads(self) -> int:
        """How many."""
        return len(self._threads)

    def put(self, queue: Queue, request: Request) -> None:
        """Have a request wait; it is delivered once, whatever comes.

        Raises:
            QueueFullError: too many rows wait already; ClosedError: after :meth:`close`. It is not delivered then.
        """
        request.arrived_s = time.monotonic()
        with self._ready:
            if self._closed:
                raise ClosedError("no requests are taken any more")
            if self._schedule.put(queue, request) and self._idle:
                self._ready.notify()

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> bool:
        """Take no more requests, and end the threads.

        Args:
            drain: compute what waits; otherwise that gets a :class:`ClosedError`, and what is being computed is finished.
            timeout_s: how long to wait for that.

        Returns:
            Whether all threads have ended.
        """
        with self._ready:
            self._closed = self._schedule.closing = True
            dropped = [] if drain else self._drop_all()
            self._ready.notify_all()
        if dropped:
            self._deliver(dropped)
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _drop_all(self) -> list[Request]:
        dropped = [request for request in self._schedule.clear() if request.error is None]
        for request in dropped:
            request.error = ClosedError("the queue was closed before its turn")
        return dropped

    def _work(self) -> None:
        torch.set_num_threads(1)  # of this thread
        while (batch := self._next()) is not None:
            if batch.expired:
                self._deliver(batch.expired)
            if batch.requests:
                self._answer(batch)

    def _next(self) -> Batch | None:
        """The next batch, when there is one; None: there will be none."""
        with self._ready:
            while True:
                found = self._schedule.take(time.monotonic())
                if isinstance(found, Batch):
                    if self._idle and self._schedule.turns:  # what else waits is another thread's
                        self._ready.notify()
                    return found
                if found is None and self._closed:
                    return None
                self._idle += 1
                self._ready.wait(found)
                self._idle -= 1

    def _answer(self, batch: Batch) -> None:
        if batch.piece is not None:
            self._answer_piece(batch, batch.requests[0], batch.piece)
            return
        batch.requests = wanted = [request for request in batch.requests if request.begin()]
        if not wanted:
            return
        model, started_s = batch.queue.model, time.monotonic()
        try:
            joined = Features.joined([request.features for request in wanted], model.schema)
            found_BT = model.probabilities(joined).numpy()
        except Exception as error:
            for request in wanted:
                request.error = error
        else:
            start = 0
            for request in wanted:
                stop = start + request.rows
                request.result = found_BT[start:stop]
                start = stop
        self._observe(batch, started_s, time.monotonic())
        self._deliver(wanted)

    def _answer_piece(self, batch: Batch, request: Request, piece: slice) -> None:
        """Some rows of a large request, the others of which other threads may compute meanwhile."""
        with self._ready:
            if request.error is not None:  # of another piece, or its time was over: it was delivered then
                return
            if piece.start == 0 and not request.begin():
                request.error = ClosedError("nobody wants the answer any more")
                return
        model, started_s = batch.queue.model, time.monotonic()
        found_BT: Probabilities | None = None
        failed: Exception | None = None
        try:
            found_BT = model.probabilities(request.features[piece]).numpy()
        except Exception as error:
            failed = error
        self._observe(batch, started_s, time.monotonic())
        with self._ready:
            if request.error is not None:
                return
            if found_BT is None:
                request.error = failed
            else:
                if request.result is None:
                    request.result = np.empty((request.rows, found_BT.shape[1]), np.float32)
                request.result[piece] = found_BT
                request.left -= len(found_BT)
                if request.left:
                    return
        self._deliver([request])


class Batcher:
    """Answers requests of one model, many at once; a context, which closes it. Any thread may call it.

    Args:
        model: what computes.
        limits: of its own threads; threads: how many, see :class:`Workers`.
        workers: threads that it shares with other models, in place of its own; who made them closes them.
    """

    def __init__(
        self, model: Model, limits: Limits | None = None, *, threads: int = 0, workers: Workers | None = None
    ) -> None:
        self.model = model
        self._own = workers is None
        self._workers = Workers(limits, threads=threads) if workers is None else workers
        self._queue = Queue(model)

    @property
    def rows_waiting(self) -> int:
        """Rows that no thread has taken yet."""
        return self._queue.rows

    def submit(self, features: Features, *, timeout_s: float = float("inf")) -> Future[Probabilities]:
        """Ask for the probabilities of rows.

        Args:
            features: as the model's schema says, ids within their tables; any number of rows that may wait.
            timeout_s: how long it may wait before it is computed.

        Returns:
            float32 (n, T); its error is an ``ExpiredError``, a ``ClosedError``, or what the model raised.

        Raises:
            QueueFullError: too many rows wait already; ClosedError: after :meth:`close`.
        """
        request = FutureRequest(features, time.monotonic() + timeout_s)
        self.put(request)
        return request.future

    def put(self, request: Request) -> None:
        """As :meth:`submit`, for callers with requests of their own; see :meth:`Workers.put`."""
        self._workers.put(self._queue, request)

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> bool:
        """See :meth:`Workers.close`; nothing where the threads are shared."""
        return not self._own or self._workers.close(drain=drain, timeout_s=timeout_s)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)
