import pytest

from dlrm.metrics.throughput import Throughput, ThroughputMeter


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_windows_and_the_whole_run_have_their_own_rates():
    clock = Clock()
    meter = ThroughputMeter(clock)
    clock.now_s += 2
    meter.count(1000)
    first = meter.mark()
    clock.now_s += 1
    meter.count(900, steps=3)
    assert first == Throughput(samples=1000, steps=1, elapsed_s=2.0)
    assert first.samples_per_s == 500.0
    assert meter.window() == Throughput(samples=900, steps=3, elapsed_s=1.0)
    assert meter.overall() == Throughput(samples=1900, steps=4, elapsed_s=3.0)
    assert meter.overall().steps_per_s == pytest.approx(4 / 3)


def test_pauses_do_not_count_even_nested_or_across_a_mark():
    clock = Clock()
    meter = ThroughputMeter(clock)
    clock.now_s += 1
    meter.count(10)
    with meter.paused():
        clock.now_s += 50
        with meter.paused():
            clock.now_s += 50
        assert meter.mark() == Throughput(samples=10, steps=1, elapsed_s=1.0)
        clock.now_s += 50
        assert meter.window() == Throughput()
    clock.now_s += 2
    meter.count(30)
    assert meter.window() == Throughput(samples=30, steps=1, elapsed_s=2.0)
    assert meter.overall() == Throughput(samples=40, steps=2, elapsed_s=3.0)


def test_the_clock_runs_on_after_a_pause_that_ended_with_an_error():
    clock = Clock()
    meter = ThroughputMeter(clock)

    def fail_while_paused():
        with meter.paused():
            clock.now_s += 50
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_paused()
    clock.now_s += 3
    assert meter.overall().elapsed_s == 3.0


def test_no_time_gives_no_rate_and_no_error():
    meter = ThroughputMeter(Clock())
    meter.count(5)
    assert (meter.window().samples_per_s, meter.window().steps_per_s) == (0.0, 0.0)
