"""Exports behind batchers, as they are served, asked without HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from dlrm.inference.benchmark.observed import Log, Observed
from dlrm.inference.benchmark.requests import Given, Requests
from dlrm.inference.features import Features
from dlrm.inference.serve.batcher import Batcher, Model, Workers
from dlrm.inference.serve.waiting import ClosedError, ExpiredError, Limits, QueueFullError, Request

_POLL_S = 5e-4


class _Logged(Request):
    """A request that a log is told of."""

    __slots__ = ("client", "log", "number")

    def __init__(self, features: Features, deadline_s: float, log: Log, number: int, client: _Clients | None) -> None:
        super().__init__(features, deadline_s)
        self.log, self.number, self.client = log, number, client

    def begin(self) -> bool:
        """Whether the run goes on."""
        return not self.log.abandoned


class Serving:
    """Models that share threads; a context, which ends the threads.

    Args:
        models: what answers; requests: of each.
        given: whether they are asked with features, or with raw rows that whoever asks makes features of.
        limits: of batches and queues.
        threads: that compute.
        timeout_s: how long a request may wait.
    """

    waits = False

    def __init__(
        self,
        models: Sequence[Model],
        requests: Sequence[Requests],
        *,
        given: Given,
        limits: Limits,
        threads: int,
        timeout_s: float = float("inf"),
    ) -> None:
        self.rows = len(requests[0].features[0])
        self._requests, self._given, self._timeout_s = requests, given, timeout_s
        self._workers = Workers(limits, threads=threads, deliver=_deliver)
        self._batchers = [Batcher(model, workers=self._workers) for model in models]

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close(drain=False)

    def ask(self, number: int, log: Log, client: _Clients | None = None) -> None:
        """See :class:`~dlrm.inference.benchmark.loops.Server`."""
        model = log.models[number]
        features = self._requests[model].take(number, self._given)
        request = _Logged(features, time.monotonic() + self._timeout_s, log, number, client)
        try:
            self._batchers[model].put(request)
        except QueueFullError:
            log.shed.append(number)
        except ClosedError as error:  # the benchmark was interrupted
            log.errors.append(error)

    def abandon(self, log: Log) -> None:
        """See :class:`~dlrm.inference.benchmark.loops.Server`."""
        log.abandoned = True
        while any(batcher.rows_waiting for batcher in self._batchers):
            time.sleep(_POLL_S)

    def closed(self, clients: int, seconds: float, *, bound_s: float) -> Observed:
        """What clients see that ask one request after the other.

        Args:
            clients: how many; each asks one model, the first the first, and so on.
            seconds: how long they ask.
            bound_s: of latencies.
        """
        log = Log((), (), bound_s)
        asking = _Clients(self, log, len(self._batchers))
        start_s, cpu_s = time.monotonic(), time.process_time()
        for client in range(clients):
            asking.ask(client % len(self._batchers))
        while time.monotonic() < start_s + seconds and not log.errors:
            time.sleep(min(0.05, max(0.0, start_s + seconds - time.monotonic())))
        cpus = (time.process_time() - cpu_s) / (time.monotonic() - start_s)
        asking.stopped = True
        while log.told < len(log.handed_s):
            time.sleep(_POLL_S)
        return log.observed("closed", rows=self.rows, start_s=start_s, cpus=cpus, clients=clients)


class _Clients:
    """Clients of a closed run: they ask again in the thread that has answered them, and so cost as little as may be."""

    def __init__(self, serving: Serving, log: Log, models: int) -> None:
        self._serving, self._log, self._models = serving, log, models
        self.stopped = False

    def ask(self, model: int) -> None:
        """Ask a model, with a request that nobody has asked with yet."""
        number = self._log.new(model, time.monotonic())
        self._serving.ask(number, self._log, self)


def _deliver(requests: Sequence[Request]) -> None:
    """Tell the logs, and let clients ask again."""
    now_s = time.monotonic()
    for request in requests:
        assert isinstance(request, _Logged)
        log, error = request.log, request.error
        if error is None:
            log.answered(request.number, now_s)
        elif isinstance(error, ExpiredError):
            log.expired.append(request.number)
        else:
            log.errors.append(error)
    for request in requests:
        assert isinstance(request, _Logged)
        if request.client is not None and not request.client.stopped and request.error is None:
            request.client.ask(request.log.models[request.number])
