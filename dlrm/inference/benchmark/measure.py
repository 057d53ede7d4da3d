"""Measures one point: a closed run, one client alone, the bounded rate, and how latency grows on the way to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.inference.benchmark.arrivals import poisson_arrivals_s
from dlrm.inference.benchmark.loops import Server, open_loop
from dlrm.inference.benchmark.observed import Log, Observed
from dlrm.inference.benchmark.points import Point
from dlrm.inference.benchmark.search import highest_rate
from dlrm.inference.benchmark.serving import Serving

_SHARES_OF_HIGHEST = (0.25, 0.5, 0.75, 0.9)
_WARM_UP = 0.3
_ALONE = 0.3
FIRST_SHARE, MOST_SHARE = 0.7, 2.0
"""Of what the machine can do by a closed run: where the search for a rate begins, and what it does not try."""
_LEAST_REQUESTS = 200
"""Of a run, however low the rate: 99 % of fewer is not known."""
_MOST_REQUESTS = 2_000_000


@dataclass
class Measured:
    """What was found at a point.

    Attributes:
        point: which; alone: one client; closed: many; bounded: at the highest rate within the bound, None where there is
            none; curve: open runs at shares of that rate, ascending.
        searched: rates of the short runs, and whether the bound held.
    """

    point: Point
    alone: Observed
    closed: Observed
    bounded: Observed | None = None
    curve: list[Observed] = field(default_factory=list)
    searched: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def bounded_rate(self) -> float:
        """Requests a second; 0 where there is none."""
        return self.bounded.rate_per_s if self.bounded else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "point": self.point.to_dict(),
            "alone": self.alone.to_dict(),
            "closed": self.closed.to_dict(),
            "bounded": self.bounded.to_dict() if self.bounded else None,
            "curve": [one.to_dict() for one in self.curve],
            "searched": [{"rate_per_s": rate, "met": met} for rate, met in self.searched],
        }


class Arrivals:
    """Makes open runs of a server, each with arrivals of its own.

    Args:
        server: what is asked.
        models: how many; each arrival is one model's, any as likely.
        bound_s: of latencies.
        rng: what arrivals are drawn with.
    """

    def __init__(self, server: Server, models: int, bound_s: float, rng: np.random.Generator) -> None:
        self._server, self._models, self._bound_s, self._rng = server, models, bound_s, rng

    def run(self, rate_per_s: float, seconds: float) -> Observed:
        """Requests arrive at this rate for so long; for longer where that would be few."""
        count = min(max(round(rate_per_s * seconds), _LEAST_REQUESTS), _MOST_REQUESTS)
        due_s = poisson_arrivals_s(rate_per_s, count, self._rng)
        models = self._rng.integers(self._models, size=count)
        return open_loop(self._server, Log(due_s.tolist(), models.tolist(), self._bound_s), rate_per_s=rate_per_s)


@dataclass
class Bounded:
    """A search's result: the confirmed run, None where no rate keeps the bound; and the rates that were tried."""

    confirmed: Observed | None
    searched: list[tuple[float, bool]]


def bounded_rate(
    run: Callable[[float, float], Observed],
    config: BenchInferenceConfig,
    *,
    first: float,
    highest: float,
    fastest_s: float,
) -> Bounded:
    """Search the highest rate that keeps the bound.

    Args:
        run: rate and seconds -> what was seen.
        config: bound, lengths of runs, tolerance.
        first: where to begin.
        highest: that is tried. A run that is short for its bound would be over before one saw that a rate is too much.
        fastest_s: what one request alone takes; if that is over the bound already, nothing is searched.
    """
    if fastest_s * 1e3 > config.bound_ms:
        return Bounded(None, [])
    found = Bounded(None, [])

    def holds(rate: float, long: bool) -> bool:
        seen = run(rate, config.confirm_seconds if long else config.seconds)
        if not (seen.meets or long):  # a moment's disturbance would end the search at a rate that is far too low
            seen = run(rate, config.seconds)
        found.searched.append((rate, seen.meets))
        if long:
            found.confirmed = seen
        return seen.meets

    # One request in ten seconds is as good as none, and would take as long to see.
    lowest = min(first, max(0.05 * first, 1.0))
    if not highest_rate(holds, first=first, lowest=lowest, highest=highest, tolerance=config.tolerance):
        found.confirmed = None
    return found


def measure(point: Point, serving: Serving, config: BenchInferenceConfig, rng: np.random.Generator) -> Measured:
    """All runs of a point.

    Args:
        point: which.
        serving: its models.
        config: of the benchmark.
        rng: what arrivals are drawn with.
    """
    bound_s = config.bound_ms / 1e3
    clients = clients_of(point, config)
    serving.closed(clients, _WARM_UP * config.seconds, bound_s=bound_s)
    alone = serving.closed(1, _ALONE * config.seconds, bound_s=bound_s)
    found = Measured(point, alone, serving.closed(clients, config.seconds, bound_s=bound_s))
    arrivals = Arrivals(serving, point.models, bound_s, rng)
    most = found.closed.requests_per_s
    bounded = bounded_rate(
        arrivals.run,
        config,
        first=FIRST_SHARE * most,
        highest=MOST_SHARE * most,
        fastest_s=alone.latency.p50_ms / 1e3,
    )
    found.bounded, found.searched = bounded.confirmed, bounded.searched
    if found.bounded:
        shares = [share * found.bounded_rate for share in _SHARES_OF_HIGHEST]
        found.curve = [arrivals.run(rate, config.seconds) for rate in shares]
    return found


def clients_of(point: Point, config: BenchInferenceConfig) -> int:
    """Clients of a closed run: as many as the configuration says, and no more than may wait."""
    filling = 2 * point.threads * math.ceil(point.batch_rows / point.request_rows)
    wanted = config.clients or max(filling, point.models, 2)
    return max(1, min(wanted, point.models * (config.max_queue_rows // point.request_rows)))
