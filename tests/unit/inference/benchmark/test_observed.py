"""Percentiles, shares within the bound, and what became of requests."""

import numpy as np
import pytest

from dlrm.inference.benchmark.observed import Latencies, Log


@pytest.mark.parametrize("count", [1, 2, 7, 99, 100, 101, 1000, 1234])
def test_percentiles_are_those_of_numpy(count):
    values = np.random.default_rng(count).lognormal(size=count)
    found = Latencies.of(values)
    expected = np.percentile(values * 1e3, [50, 95, 99, 100], method="inverted_cdf")
    assert [found.p50_ms, found.p95_ms, found.p99_ms, found.max_ms] == expected.tolist()


def test_no_latencies_have_percentiles_of_0():
    assert Latencies.of([]) == Latencies(0.0, 0.0, 0.0, 0.0)


def log_of(latencies_s, *, bound_s=0.1, models=None):
    """All were due at 5 s, and handed over then."""
    log = Log([5.0] * len(latencies_s), models or [0] * len(latencies_s), bound_s)
    for number, latency_s in enumerate(latencies_s):
        log.handed_s.append(5.0)
        if latency_s is not None:
            log.answered(number, 5.0 + latency_s)
    return log


def seen(log, rows=1):
    return log.observed("open", rows=rows, start_s=5.0, cpus=0.5)


@pytest.mark.parametrize("over", [0, 1, 2, 3])
def test_the_bound_is_kept_if_and_only_if_p99_is_within_it(over):
    found = seen(log_of([0.05] * (200 - over) + [0.2] * over))
    assert found.meets == (found.latency.p99_ms <= 100) == (over <= 2)
    assert found.within == (200 - over) / 200


def test_who_is_shed_or_expires_is_not_within_the_bound():
    log = log_of([0.05] * 97 + [None] * 3)
    log.shed += [97, 98]
    log.expired.append(99)
    found = seen(log, rows=4)
    assert (found.requests, found.answered, found.shed, found.expired) == (100, 97, 2, 1)
    assert found.within == 0.97
    assert not found.meets
    assert not found.gave_up
    assert found.latency.max_ms == pytest.approx(50)
    assert found.requests_per_s == pytest.approx(97 / 0.05)
    assert found.rows_per_s == pytest.approx(4 * 97 / 0.05)


def test_a_run_is_hopeless_as_soon_as_more_than_1_percent_are_over():
    assert not log_of([0.2] * 2 + [None] * 198).hopeless
    assert log_of([0.2] * 3 + [None] * 197).hopeless


def test_late_hand_overs_are_counted_and_half_of_them_late_is_said():
    log = Log([1.0] * 4, [0] * 4, 1.0)
    for number, handed_s in enumerate([1.0, 1.0005, 1.002, 1.004]):
        log.handed_s.append(handed_s)
        log.answered(number, 1.5)
    found = log.observed("open", rows=1, start_s=1.0, cpus=0.0)
    assert found.late == 0.5
    assert not found.behind
    assert found.late_p99_ms == pytest.approx(4)
    log.handed_s[1] = 1.0011
    assert log.observed("open", rows=1, start_s=1.0, cpus=0.0).behind


def test_each_model_has_its_own_figures():
    found = seen(log_of([0.01, 0.02, 0.03, 0.04], models=[0, 1, 1, 0]))
    assert [(one.requests_per_s, one.p99_ms) for one in found.models] == [
        (pytest.approx(2 / 0.04), pytest.approx(40)),
        (pytest.approx(2 / 0.04), pytest.approx(30)),
    ]


def test_what_a_model_raises_is_raised():
    log = log_of([0.01])
    log.errors.append(RuntimeError("of the model"))
    with pytest.raises(RuntimeError, match="of the model"):
        seen(log)
