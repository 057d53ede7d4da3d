from fractions import Fraction
from itertools import pairwise

import pytest

from dlrm.config.optim import Schedule
from dlrm.optim.schedule import learning_rate

FULL = Schedule(warmup_steps=4, decay_start_step=6, decay_steps=5, min_lr=0.0)


def intended(step, *, base, warm, start, length, least):
    """Linear to base over W steps; base; base * ((N - (step - D)) / N)^2 over N steps, floored. In exact fractions."""
    base, least = Fraction(base), Fraction(least)
    if step <= warm:
        return base * step / warm
    if step <= start:
        return base
    return max(base * Fraction(max(length - (step - start), 0), length) ** 2, least)


def test_warm_up_hold_decay_and_minimum_by_hand():
    rates = {1: 2.5, 2: 5.0, 3: 7.5, 4: 10.0, 5: 10.0, 6: 10.0, 7: 6.4, 8: 3.6, 9: 1.6, 10: 0.4, 11: 0.0, 12: 0.0}
    assert {step: learning_rate(FULL, 10.0, step) for step in rates} == pytest.approx(rates, rel=1e-15)


@pytest.mark.parametrize(
    ("warm", "start", "length"), [(1, 1, 1), (1, 3, 7), (2750, 27_772, 27_772), (8000, 70_000, 30_000)]
)
@pytest.mark.parametrize("base", [24.0, 0.004, 2e-7])
def test_every_step_is_that_of_the_intended_formula(warm, start, length, base):
    schedule = Schedule(warmup_steps=warm, decay_start_step=start, decay_steps=length)
    end = start + length
    steps = {1, 2, warm - 1, warm, warm + 1, start, start + 1, start + length // 2, end - 1, end, end + 1, 10 * end}
    for step in sorted(step for step in steps if step >= 1):
        exact = intended(step, base=base, warm=warm, start=start, length=length, least=1e-7)
        assert learning_rate(schedule, base, step) == pytest.approx(float(exact), rel=1e-12), step


def test_the_phases_meet_without_a_jump():
    schedule = Schedule(warmup_steps=1000, decay_start_step=3000, decay_steps=2000, min_lr=0.0)
    rates = [learning_rate(schedule, 1.0, step) for step in range(1, 5002)]
    assert max(abs(later - earlier) for earlier, later in pairwise(rates)) <= 1 / 1000 + 1e-12
    assert (rates[999], rates[2999], rates[4999]) == (1.0, 1.0, 0.0)


def test_the_rate_rises_then_stays_then_falls():
    rates = [learning_rate(FULL, 1.0, step) for step in range(1, 13)]
    assert rates[:4] == sorted(rates[:4])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert min(rates[:10]) > 0


def test_without_phases_the_rate_is_constant():
    assert {learning_rate(Schedule(), 0.1, step) for step in (1, 2, 10**9)} == {0.1}


def test_warm_up_without_decay_ends_at_the_base_rate():
    assert [learning_rate(Schedule(warmup_steps=2), 0.1, step) for step in (1, 2, 3)] == [0.05, 0.1, 0.1]


def test_decay_without_warm_up_may_start_at_once():
    schedule = Schedule(decay_start_step=0, decay_steps=2)
    assert [learning_rate(schedule, 0.4, step) for step in (1, 2)] == pytest.approx([0.1, 1e-7])


def test_decay_never_falls_below_the_minimum_nor_raises_a_rate_that_is_below_it():
    schedule = Schedule(warmup_steps=2, decay_start_step=2, decay_steps=10, min_lr=0.01)
    assert [learning_rate(schedule, 0.1, step) for step in (10, 12, 99)] == [0.01] * 3
    assert [learning_rate(schedule, 0.001, step) for step in (2, 3, 99)] == [0.001] * 3
    assert learning_rate(schedule, 0.001, 1) == 0.0005  # warm-up starts below any minimum
