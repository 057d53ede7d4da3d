"""The search finds the highest rate that holds."""

import numpy as np
import pytest

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.inference.benchmark.loops import open_loop
from dlrm.inference.benchmark.measure import Arrivals, bounded_rate
from dlrm.inference.benchmark.search import highest_rate
from tests.unit.inference.benchmark.virtual import Queued, VirtualTime


@pytest.mark.parametrize("first", [1.0, 80.0, 99.9, 100.0, 1000.0])
@pytest.mark.parametrize("tolerance", [0.02, 0.2])
def test_the_capacity_of_a_server_is_found_from_wherever_it_begins(first, tolerance):
    found = highest_rate(lambda rate, _: rate <= 100.0, first=first, lowest=0.5, highest=1e9, tolerance=tolerance)
    assert 100 / (1 + tolerance) <= found <= 100


def test_a_rate_that_a_long_run_does_not_confirm_is_lowered_until_one_does():
    found = highest_rate(
        lambda rate, long: rate <= (80.0 if long else 100.0), first=60.0, lowest=1.0, highest=1e9, tolerance=0.05
    )
    assert 80 / 1.05 <= found <= 80


def test_nothing_is_found_where_nothing_holds_or_nothing_is_confirmed():
    asked = []

    def holds(rate, long):
        asked.append(rate)
        return False

    assert highest_rate(holds, first=100.0, lowest=10.0, highest=1e9, tolerance=0.05) == 0
    assert min(asked) == 10.0
    assert (
        highest_rate(lambda rate, long: not long and rate < 50, first=20.0, lowest=10.0, highest=1e9, tolerance=0.05)
        == 0
    )


def test_rates_above_the_highest_are_not_tried():
    asked = []

    def holds(rate, long):
        asked.append(rate)
        return True

    assert highest_rate(holds, first=60.0, lowest=1.0, highest=100.0, tolerance=0.05) == 100
    assert asked == [60.0, 96.0, 100.0, 100.0]


CONFIG = BenchInferenceConfig(exports=("e",), bound_ms=20.0, seconds=5.0, confirm_seconds=30.0, tolerance=0.03)


def of_queue(monkeypatch, service_s):
    time = VirtualTime()

    def on_virtual_time(server, log, *, rate_per_s):
        return open_loop(server, log, rate_per_s=rate_per_s, clock=time.clock, sleep=time.sleep, cpu_clock=time.clock)

    monkeypatch.setattr("dlrm.inference.benchmark.measure.open_loop", on_virtual_time)
    return Arrivals(Queued(time, service_s), 1, CONFIG.bound_ms / 1e3, np.random.default_rng(1)).run


def test_the_bounded_rate_of_a_queue_is_where_queueing_theory_has_its_p99(monkeypatch):
    # M/D/1 with a service of 1 ms: the tail of the waiting time is about exp(-2 (1 - load) / load * w / service), so that
    # p99 of wait + service is 20 ms at a load of about 0.89 (2 (1 - load) / load * 19 = ln 100).
    found = bounded_rate(of_queue(monkeypatch, 0.001), CONFIG, first=500.0, highest=1e4, fastest_s=0.001)
    assert found.confirmed is not None
    assert found.confirmed.meets
    assert found.confirmed.requests >= 0.9 * 30 * found.confirmed.rate_per_s
    assert 820 < found.confirmed.rate_per_s < 940
    assert found.searched[-1] == (found.confirmed.rate_per_s, True)


def test_a_bound_below_what_one_request_takes_is_not_searched(monkeypatch):
    found = bounded_rate(of_queue(monkeypatch, 0.03), CONFIG, first=500.0, highest=1e4, fastest_s=0.03)
    assert found.confirmed is None
    assert found.searched == []
