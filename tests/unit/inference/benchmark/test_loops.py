"""Open loops: a latency counts from when its request was due, whatever the server did meanwhile."""

import numpy as np
import pytest

from dlrm.inference.benchmark.arrivals import poisson_arrivals_s
from dlrm.inference.benchmark.loops import open_loop
from dlrm.inference.benchmark.observed import Log
from tests.unit.inference.benchmark.virtual import OneAfterTheOther, Queued, VirtualTime


def run(time, server, due_s, *, bound_s=1e9):
    log = Log(due_s, [0] * len(due_s), bound_s)
    seen = open_loop(
        server, log, rate_per_s=1.0, clock=time.clock, sleep=time.sleep, cpu_clock=lambda: 0.5 * time.now_s
    )
    return seen, log


def test_one_stall_is_in_the_latencies_of_all_that_were_due_meanwhile():
    # 1,000 requests, one every 10 ms, each takes 1 ms, and number 300 takes 500 ms more: 501 ms. The next was due 10 ms
    # after it and is answered after 492 ms, the one after it after 483, and so on, 9 ms less each: 56 requests are slow.
    # The 11th of them in order is the 990th of all, p99: 501 - 10 * 9. A client who waits before it asks again would have
    # seen one slow answer, and a p99 of 1 ms.
    time = VirtualTime()
    server = OneAfterTheOther(time, 0.001, stalls_at=300, stall_s=0.5)
    seen, log = run(time, server, [0.01 * number for number in range(1000)])
    assert seen.latency.max_ms == pytest.approx(501)
    assert seen.latency.p99_ms == pytest.approx(501 - 10 * 9)
    assert seen.latency.p50_ms == pytest.approx(1)
    slow = [number for number, at_s in log.finished if at_s - log.due_s[number] > 0.0015]
    assert slow == list(range(300, 356))
    assert seen.requests == seen.answered == 1000
    assert not seen.behind


@pytest.mark.parametrize("load", [0.5, 0.95, 1.5])
def test_waiting_times_are_those_of_lindleys_recursion(load):
    service_s = 0.002
    due_s = poisson_arrivals_s(load / service_s, 500, np.random.default_rng(3))
    waits_s = [0.0]  # W(n + 1) = max(0, W(n) + S - A(n))
    for gap_s in np.diff(due_s):
        waits_s.append(max(0.0, waits_s[-1] + service_s - gap_s))
    for server in (OneAfterTheOther, Queued):
        time = VirtualTime()
        _, log = run(time, server(time, service_s), due_s.tolist())
        found_s = [at_s - log.due_s[number] for number, at_s in sorted(log.finished)]
        np.testing.assert_allclose(found_s, np.array(waits_s) + service_s, atol=1e-9)


def test_throughput_and_processor_time_are_of_the_run():
    time = VirtualTime()
    seen, _ = run(time, OneAfterTheOther(time, 0.5), [0.0, 2.0, 4.0])
    assert seen.seconds == pytest.approx(4.5)
    assert seen.requests_per_s == pytest.approx(3 / 4.5)
    assert seen.rows_per_s == pytest.approx(9 / 4.5)
    assert seen.cpus == pytest.approx(0.5)


def test_a_run_ends_as_soon_as_the_bound_is_lost():
    time = VirtualTime()
    server = OneAfterTheOther(time, 1.0)
    seen, _ = run(time, server, [0.1 * number for number in range(300)], bound_s=2.0)
    assert len(server.asked) < 12
    assert seen.gave_up
    assert not seen.meets


def test_nobody_waits_for_what_a_lost_run_has_left_behind():
    class Never(Queued):
        def ask(self, number, log):
            if number % 2:
                log.answered(number, self.time.now_s + 10)

    time = VirtualTime()
    server = Never(time, 1.0)
    seen, _ = run(time, server, [0.0] * 100, bound_s=1.0)
    assert server.abandoned
    assert seen.gave_up


def test_a_generator_that_cannot_keep_up_is_told_of():
    class SlowToTake(Queued):
        def ask(self, number, log):
            self.time.now_s += 0.01
            super().ask(number, log)

    time = VirtualTime()
    seen, _ = run(time, SlowToTake(time, 0.001), [0.005 * number for number in range(100)])
    assert seen.behind
    # Request n is due at 5 n ms and handed over at 10 n ms.
    assert seen.late_p99_ms == pytest.approx(5 * 98)
    assert seen.latency.max_ms == pytest.approx(5 * 99 + 10 + 1)
