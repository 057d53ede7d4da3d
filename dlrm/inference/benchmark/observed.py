"""What was seen of the requests of a run."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WITHIN = 0.99
"""Share of the requests that the bound is for."""
LATE_S = 1e-3
"""A request that is handed over later than this after it was due is late by the generator's fault."""

Kind = Literal["closed", "open"]


@dataclass(frozen=True)
class Latencies:
    """Of answered requests, in milliseconds; 0 where there are none. p99: 99 % of them took this long or less."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, latencies_s: Sequence[float] | NDArray[np.float64]) -> Latencies:
        """Those of a run."""
        ascending = np.sort(np.asarray(latencies_s, np.float64)) * 1e3
        return cls(*(percentile(ascending, share) for share in (0.50, 0.95, 0.99, 1.0)))


def percentile(ascending: NDArray[np.float64], share: float) -> float:
    """The least value that at least this share of the values does not exceed; 0 of none."""
    if not len(ascending):
        return 0.0
    return float(ascending[max(0, math.ceil(round(share * len(ascending), 6)) - 1)])


@dataclass(frozen=True)
class OfModel:
    """What one of several models had of a run."""

    requests_per_s: float
    p99_ms: float


@dataclass(frozen=True)
class Observed:
    """A run.

    Attributes:
        kind: closed or open; clients: of a closed run, else 0; rate_per_s: of arrivals of an open run, else 0.
        requests: that were asked; answered, shed, expired: what became of them (shed: the queue was full).
        seconds: from the first arrival to the last answer; requests_per_s, rows_per_s: answered.
        latency: of those that were answered.
        within: share of all requests that were answered within the bound.
        late: share of the requests that were handed over more than a millisecond after they were due.
        late_p99_ms: by how much.
        behind: the generator could not keep up: more than half were late.
        gave_up: the run was ended early, because too many were over the bound already.
        cpus: processor time of the process by wall time.
        models: by model, where there are several.
    """

    kind: Kind
    clients: int
    rate_per_s: float
    requests: int
    answered: int
    shed: int
    expired: int
    seconds: float
    requests_per_s: float
    rows_per_s: float
    latency: Latencies
    within: float
    late: float = 0.0
    late_p99_ms: float = 0.0
    behind: bool = False
    gave_up: bool = False
    cpus: float = 0.0
    models: tuple[OfModel, ...] = ()

    @property
    def meets(self) -> bool:
        """Whether the bound holds for as many requests as it has to."""
        return not self.gave_up and self.within >= WITHIN

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class Log:
    """The moments of the requests of one run, by number; threads may write at once, each request's by one thread.

    Args:
        due_s: of each request of an open run, on the run's clock; empty where they are due when they are handed over.
        models: number of each request's model.
        bound_s: of latencies.

    Attributes:
        handed_s: when requests were handed over, in order; finished: number and moment of each answer.
        shed, expired: numbers; errors: what models raised.
        abandoned: nobody waits for what is not answered yet.
    """

    def __init__(self, due_s: Sequence[float], models: Sequence[int], bound_s: float) -> None:
        self.due_s, self.models, self.bound_s = list(due_s), list(models), bound_s
        self.handed_s: list[float] = []
        # Appending is atomic, adding to a number is not.
        self.finished: list[tuple[int, float]] = []
        self.shed: list[int] = []
        self.expired: list[int] = []
        self.errors: list[Exception] = []
        self.abandoned = False
        self._lock = threading.Lock()
        self._over: list[int] = []
        self._most_over = math.floor((1 - WITHIN) * len(self.due_s) + 1e-9)

    def new(self, model: int, now_s: float) -> int:
        """The number of one more request, which is due now."""
        with self._lock:
            self.due_s.append(now_s)
            self.models.append(model)
            self.handed_s.append(now_s)
            return len(self.due_s) - 1

    def answered(self, number: int, at_s: float) -> None:
        """A request was answered."""
        if at_s - self.due_s[number] > self.bound_s:
            self._over.append(number)
        self.finished.append((number, at_s))

    @property
    def told(self) -> int:
        """Requests of which it is known what became of them."""
        return len(self.finished) + len(self.shed) + len(self.expired) + len(self.errors)

    @property
    def hopeless(self) -> bool:
        """Whether so many are over the bound that the share within it cannot be reached any more."""
        return len(self._over) + len(self.shed) + len(self.expired) > self._most_over

    def observed(
        self, kind: Kind, *, rows: int, start_s: float, cpus: float, clients: int = 0, rate_per_s: float = 0.0
    ) -> Observed:
        """What was seen.

        Args:
            kind: of the run.
            rows: of a request.
            start_s: when the run began, on its clock.
            cpus: processor time by wall time.
            clients: of a closed run.
            rate_per_s: of an open one.

        Raises:
            Exception: what a model raised.
        """
        if self.errors:
            raise self.errors[0]
        finished = list(self.finished)
        numbers = np.array([number for number, _ in finished], np.int64)
        done_s = np.array([at_s for _, at_s in finished])
        due_s = np.array(self.due_s)
        latencies_s = done_s - due_s[numbers] if len(finished) else np.empty(0)
        seconds = max(float(done_s.max()) - start_s if len(finished) else 0.0, 1e-9)
        asked = len(self.handed_s)
        late_s = np.sort(np.array(self.handed_s) - due_s[:asked])
        late = float((late_s > LATE_S).mean()) if asked else 0.0
        return Observed(
            kind,
            clients,
            rate_per_s,
            requests=asked,
            answered=len(finished),
            shed=len(self.shed),
            expired=len(self.expired),
            seconds=seconds,
            requests_per_s=len(finished) / seconds,
            rows_per_s=rows * len(finished) / seconds,
            latency=Latencies.of(latencies_s),
            within=float((latencies_s <= self.bound_s).sum()) / max(asked, 1),
            late=late,
            late_p99_ms=percentile(late_s, 0.99) * 1e3,
            behind=late > 0.5,
            gave_up=asked < len(due_s) or len(finished) + len(self.shed) + len(self.expired) < asked,
            cpus=cpus,
            models=self._by_model(numbers, latencies_s, seconds),
        )

    def _by_model(
        self, numbers: NDArray[np.int64], latencies_s: NDArray[np.float64], seconds: float
    ) -> tuple[OfModel, ...]:
        count = max(self.models, default=0) + 1
        if count == 1:
            return ()
        model_of = np.array(self.models)[numbers] if len(numbers) else np.empty(0, np.int64)
        return tuple(
            OfModel(float((model_of == model).sum()) / seconds, Latencies.of(latencies_s[model_of == model]).p99_ms)
            for model in range(count)
        )
