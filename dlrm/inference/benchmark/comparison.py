"""The best combination beside the plain way, by turns, so that what disturbs the machine disturbs both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.inference.benchmark.measure import FIRST_SHARE, MOST_SHARE, Arrivals, bounded_rate
from dlrm.inference.benchmark.observed import Log, Observed
from dlrm.inference.benchmark.plain import Plain
from dlrm.inference.benchmark.points import Point
from dlrm.inference.benchmark.serving import Serving

_WARM_UP_REQUESTS = 30
_TIMED_REQUESTS = 100


@dataclass
class Comparison:
    """Rounds of both ways.

    Attributes:
        point: of the batcher; threads: that the plain way computes with.
        plain, batched: of each round, the confirmed run; None where the bound was not kept.
        plain_alone_ms: of each round, what a request takes the plain way while no other waits, in the median.
    """

    point: Point
    threads: int
    plain: list[Observed | None] = field(default_factory=list)
    batched: list[Observed | None] = field(default_factory=list)
    plain_alone_ms: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Of each round in which both kept the bound: requests a second by the plain way's."""
        return [
            ours.rate_per_s / theirs.rate_per_s
            for ours, theirs in zip(self.batched, self.plain, strict=False)
            if ours and theirs
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        ratios = self.ratios
        return {
            "point": self.point.to_dict(),
            "plain_threads": self.threads,
            "plain_alone_ms": self.plain_alone_ms,
            "plain": [one.to_dict() if one else None for one in self.plain],
            "batched": [one.to_dict() if one else None for one in self.batched],
            "ratios": ratios,
            "ratio": {"median": median(ratios), "least": min(ratios), "most": max(ratios)} if ratios else None,
        }


def compare(
    point: Point,
    plain: Plain,
    serving: Callable[[], Serving],
    config: BenchInferenceConfig,
    *,
    first: float,
    highest: float,
    threads: int,
    rng: np.random.Generator,
    found: Callable[[Comparison], None],
) -> Comparison:
    """Measure both ways by turns, and who is first changes from round to round.

    Args:
        point: of the batcher.
        plain: the plain way.
        serving: makes the batcher, which is closed while the plain way is measured.
        config: of the benchmark.
        first: the rate at which the search for the batcher's begins; each round after the first begins with the one before.
        highest: rate of the batcher that is tried.
        threads: of torch, for the plain way.
        rng: what arrivals are drawn with.
        found: told after each round.
    """
    seen = Comparison(point, threads)
    rates = {"plain": 0.0, "batched": first}

    def of_plain() -> None:
        torch.set_num_threads(threads)
        alone_s = _alone_s(plain)
        seen.plain_alone_ms.append(alone_s * 1e3)
        start = rates["plain"] or FIRST_SHARE / alone_s
        run = Arrivals(plain, 1, config.bound_ms / 1e3, rng).run
        one = bounded_rate(run, config, first=start, highest=MOST_SHARE / alone_s, fastest_s=alone_s).confirmed
        rates["plain"] = one.rate_per_s if one else 0.0
        seen.plain.append(one)

    def of_batched() -> None:
        with serving() as server:
            server.closed(2, 0.2 * config.seconds, bound_s=1.0)
            run = Arrivals(server, 1, config.bound_ms / 1e3, rng).run
            one = bounded_rate(run, config, first=rates["batched"], highest=highest, fastest_s=0.0).confirmed
        rates["batched"] = one.rate_per_s if one else rates["batched"]
        seen.batched.append(one)

    for number in range(config.rounds):
        for measure in (of_plain, of_batched) if number % 2 == 0 else (of_batched, of_plain):
            measure()
        found(seen)
    return seen


def _alone_s(plain: Plain) -> float:
    """What a request takes in the median, one after the other."""
    for count in (_WARM_UP_REQUESTS, _TIMED_REQUESTS):
        taken_s = []
        log = Log([0.0] * count, [0] * count, float("inf"))
        for number in range(count):
            start_s = time.perf_counter()
            plain.ask(number, log)
            taken_s.append(time.perf_counter() - start_s)
    return median(taken_s)
