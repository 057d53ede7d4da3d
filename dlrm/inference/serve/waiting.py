"""Requests that wait for an answer, and which of them are computed next. It knows no threads, no lock and no clock.

Every model has a *queue*; all queues are one *schedule*. A *batch* is what is computed at once: whole requests of one
queue, or a piece of one request that is larger than a batch. Queues take turns, a batch each, so that a model that is
asked much does not keep another from its turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.inference.features import Features


class QueueFullError(Exception):
    """More rows wait than may wait."""


class ExpiredError(Exception):
    """A request has waited longer than its time, and was not computed."""


class ClosedError(Exception):
    """No requests are taken any more."""


@dataclass(frozen=True)
class Limits:
    """What bounds a batch and a queue.

    Attributes:
        max_batch_rows: computed at once.
        max_wait_s: how long the first request of a batch waits for others; 0: a batch is what waits when a thread is free.
        max_queue_rows: that wait for one model.
    """

    max_batch_rows: int = 256
    max_wait_s: float = 0.0
    max_queue_rows: int = 16384


class Request:
    """Rows to be answered.

    Attributes:
        features: n rows; rows: n.
        deadline_s: until when it may wait, on the schedule's clock.
        arrived_s: when it began to wait.
        result: float32 (n, T), the probabilities, once all are known; error: why there are none.
    """

    __slots__ = ("arrived_s", "deadline_s", "error", "features", "left", "next_row", "result", "rows")

    def __init__(self, features: Features, deadline_s: float = float("inf")) -> None:
        self.features = features
        self.rows = len(features)
        self.deadline_s = deadline_s
        self.arrived_s = 0.0
        self.result: NDArray[np.float32] | None = None
        self.error: Exception | None = None
        self.next_row = 0  # of a request that is computed in pieces: the first row that nobody has taken
        self.left = self.rows  # rows of it that are not computed yet

    def begin(self) -> bool:
        """It is about to be computed: whether somebody still wants that."""
        return True


class Queue:
    """What waits for one model.

    Attributes:
        model: for whoever computes a batch; name: for whoever counts them; rows: that wait.
    """

    __slots__ = ("__weakref__", "model", "name", "rows", "waiting")

    def __init__(self, model: Any, name: str = "") -> None:
        self.model, self.name = model, name
        self.rows = 0
        self.waiting: deque[Request] = deque()


@dataclass(slots=True)
class Batch:
    """What a thread has taken.

    Attributes:
        queue: of whose model.
        requests: to be computed, all rows of each; none where all that waited had expired.
        rows: of all.
        piece: the rows, of the one request, that are to be computed; None where it is all of them.
        expired: requests that are to be told so.
    """

    queue: Queue
    requests: list[Request] = field(default_factory=list)
    rows: int = 0
    piece: slice | None = None
    expired: list[Request] = field(default_factory=list)


class Schedule:
    """All queues; who calls it holds a lock.

    Args:
        limits: of batches and queues.

    Attributes:
        turns: the queues in which something waits; the first is served next.
        closing: whether nothing is waited for any more.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.turns: deque[Queue] = deque()
        self.closing = False

    def put(self, queue: Queue, request: Request) -> bool:
        """Have a request wait.

        Returns:
            Whether another thread is of use: something waits where nothing did, or enough for one more batch.

        Raises:
            QueueFullError: too many rows wait already.
        """
        before, rows = queue.rows, request.rows
        if before + rows > self.limits.max_queue_rows:
            raise QueueFullError(f"{before} rows wait, {rows} more would be over {self.limits.max_queue_rows}")
        queue.rows = after = before + rows
        queue.waiting.append(request)
        if len(queue.waiting) == 1:
            self.turns.append(queue)
            return True
        full = self.limits.max_batch_rows
        return after // full != before // full

    def take(self, now_s: float) -> Batch | float | None:
        """The batch to compute now; or else in how many seconds there is one, None where nothing waits."""
        soonest_s = None
        for place, queue in enumerate(self.turns):
            wait_s = self._wait_s(queue, now_s)
            if wait_s <= 0:
                del self.turns[place]
                batch = self._next_of(queue, now_s)
                if queue.waiting:
                    self.turns.append(queue)
                return batch
            soonest_s = wait_s if soonest_s is None else min(soonest_s, wait_s)
        return soonest_s

    def clear(self) -> list[Request]:
        """Nobody is to be answered any more: all that waited."""
        requests = [request for queue in self.turns for request in queue.waiting]
        for queue in self.turns:
            queue.waiting.clear()
            queue.rows = 0
        self.turns.clear()
        return requests

    def _wait_s(self, queue: Queue, now_s: float) -> float:
        if self.closing or queue.rows >= self.limits.max_batch_rows:
            return 0.0
        return queue.waiting[0].arrived_s + self.limits.max_wait_s - now_s

    def _next_of(self, queue: Queue, now_s: float) -> Batch:
        most, waiting, batch = self.limits.max_batch_rows, queue.waiting, Batch(queue)
        while waiting:
            request = waiting[0]
            rows = request.rows - request.next_row
            if request.error is not None or request.deadline_s < now_s:
                waiting.popleft()
                queue.rows -= rows
                if request.error is None:
                    request.error = ExpiredError("waited longer than its time")
                    batch.expired.append(request)
                continue
            if request.rows > most:  # its last rows are a piece, too, however few they are
                if not batch.requests:
                    self._take_piece(queue, batch)
                break
            if batch.rows + rows > most:
                break
            waiting.popleft()
            queue.rows -= rows
            batch.requests.append(request)
            batch.rows += rows
        return batch

    def _take_piece(self, queue: Queue, batch: Batch) -> None:
        """The next rows of a large request, which then lets the others go first."""
        request = queue.waiting.popleft()
        start = request.next_row
        stop = min(start + self.limits.max_batch_rows, request.rows)
        request.next_row = stop
        if stop < request.rows:
            queue.waiting.append(request)
        queue.rows -= stop - start
        batch.requests.append(request)
        batch.rows, batch.piece = stop - start, slice(start, stop)
