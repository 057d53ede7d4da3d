"""What a server counts, for Prometheus; docs/serving.md says what each is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from dlrm.inference.serve.models import Models, ServedModel
from dlrm.inference.serve.refusal import Cause
from dlrm.inference.serve.waiting import Batch

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        models: of the server.
    """

    def __init__(self, models: Models) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._models = models
        self._requests = Counter("dlrm_requests", "Requests for predictions.", ["model", "code"], registry=registry)
        self._rejected = Counter("dlrm_rejected", "Requests not answered, by cause.", ["cause"], registry=registry)
        self._rows = Counter("dlrm_rows", "Rows that were answered.", ["model"], registry=registry)
        self._total = _histogram("dlrm_request_seconds", "From headers to answer.", ["model"], registry)
        about = "Of a request: parse, queue; of a batch: compute."
        self._stages = _histogram("dlrm_stage_seconds", about, ["model", "stage"], registry)
        self._batches = Histogram(
            "dlrm_batch_rows", "Rows computed at once.", ["model"], registry=registry, buckets=_ROWS
        )
        self._loads = Counter("dlrm_model_loads", "Exports loaded, or not.", ["model", "outcome"], registry=registry)
        waiting = Gauge("dlrm_queue_rows", "Rows that wait.", ["model"], registry=registry)
        step = Gauge("dlrm_export_step", "Step of the export that answers.", ["model"], registry=registry)
        stale = Gauge(
            "dlrm_export_refused", "Whether the export at the path is not served.", ["model"], registry=registry
        )
        for name, model in models.items():
            waiting.labels(name).set_function(_of(model, lambda model: model.rows_waiting))
            step.labels(name).set_function(_of(model, lambda model: model.version.step))
            stale.labels(name).set_function(_of(model, lambda model: bool(model.problem)))
            self.loaded(name, True)
            self._loads.labels(name, "failed")
        self.request_of = lru_cache(maxsize=512)(self._requests.labels)
        self._rejected_of = lru_cache(maxsize=64)(self._rejected.labels)
        self.rows_of = {name: self._rows.labels(name) for name in models}
        self.total_of = {name: self._total.labels(name) for name in models}
        self.parse_of = {name: self._stages.labels(name, "parse") for name in models}
        self._queue_of = {name: self._stages.labels(name, "queue") for name in models}
        self._compute_of = {name: self._stages.labels(name, "compute") for name in models}
        self._batch_of = {name: self._batches.labels(name) for name in models}

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Have a number of the server shown."""
        Gauge(name, about, registry=self._registry).set_function(value)

    def loaded(self, model: str, good: bool) -> None:
        """An export was loaded, or could not be."""
        self._loads.labels(model, "loaded" if good else "failed").inc()

    def rejected(self, cause: Cause) -> None:
        """A request was not answered."""
        self._rejected_of(cause).inc()

    def computed(self, batch: Batch, started_s: float, ended_s: float) -> None:
        """A batch was; from any thread."""
        name = batch.queue.name
        self._batch_of[name].observe(batch.rows)
        self._compute_of[name].observe(ended_s - started_s)
        if batch.piece is not None and batch.piece.start > 0:  # the request's first piece has told how long it waited
            return
        queue = self._queue_of[name]
        for request in batch.requests:
            queue.observe(started_s - request.arrived_s)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


def _histogram(name: str, about: str, labels: list[str], registry: CollectorRegistry) -> Histogram:
    return Histogram(name, about, labels, registry=registry, buckets=_SECONDS)


def _of(model: ServedModel, value: Callable[[ServedModel], float]) -> Callable[[], float]:
    return lambda: value(model)
