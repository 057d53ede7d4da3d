from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.optim import lr_scheduler as scheduler

from dlrm.config import Config, load_config
from dlrm.config.optim import (
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    Schedule,
    StepSchedule,
)
from dlrm.optim.schedule import batch_size_factor, learning_rate, rate_lines

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


def by_torch(kind, base, steps, **arguments):
    """The rates that a scheduler of torch gives to steps counted from 0."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = kind(optimizer, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SINCE = {
    "linear": (
        LinearSchedule(warmup_steps=2, decay_start_step=5, decay_steps=7, min_lr=0.0),
        partial(scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=7),
    ),
    "cosine": (
        CosineSchedule(warmup_steps=2, decay_start_step=5, decay_steps=30, min_lr=0.01),
        partial(scheduler.CosineAnnealingLR, T_max=30, eta_min=0.01),
    ),
    "step": (
        StepSchedule(warmup_steps=2, decay_start_step=5, every_steps=4, factor=0.3),
        partial(scheduler.StepLR, step_size=4, gamma=0.3),
    ),
    "step after warm-up": (
        StepSchedule(warmup_steps=5, every_steps=3, min_lr=0),
        partial(scheduler.StepLR, step_size=3),
    ),
    "exponential": (
        ExponentialSchedule(warmup_steps=2, decay_start_step=5, every_steps=4, factor=0.3),
        partial(scheduler.ExponentialLR, gamma=0.3**0.25),
    ),
}


@pytest.mark.parametrize("name", SINCE)
def test_from_the_start_of_the_decay_on_each_kind_is_torchs_scheduler(name):
    schedule, of_torch = SINCE[name]
    rates = [learning_rate(schedule, 0.4, step) for step in range(1, 31)]
    warm = schedule.warmup_steps
    assert rates[: warm - 1] == pytest.approx([0.4 * step / warm for step in range(1, warm)])
    assert rates[warm - 1 : 5] == [0.4] * (6 - warm)
    assert rates[4:] == pytest.approx(by_torch(of_torch, 0.4, 26), rel=1e-9, abs=1e-12)


def test_cosine_and_linear_end_at_the_minimum_and_no_kind_raises_a_rate():
    for kind in (LinearSchedule, CosineSchedule):
        schedule = kind(decay_start_step=3, decay_steps=10, min_lr=0.02)
        assert [learning_rate(schedule, 0.1, step) for step in (13, 14, 999)] == pytest.approx([0.02] * 3)
        assert {learning_rate(schedule, 0.01, step) for step in (1, 8, 13, 99)} == {0.01}
    assert learning_rate(StepSchedule(every_steps=1), 0.1, 99) == 1e-7


def test_the_inverse_root_meets_the_warm_up_and_falls_to_half_at_four_times_its_steps():
    schedule = InverseSqrtSchedule(warmup_steps=100)
    rates = {step: learning_rate(schedule, 0.4, step) for step in (50, 100, 400, 10_000)}
    assert rates == pytest.approx({50: 0.2, 100: 0.4, 400: 0.2, 10_000: 0.04})


@pytest.mark.parametrize(("rule", "factor"), [("linear", 4.0), ("sqrt", 2.0)])
def test_rates_grow_with_the_batch_by_the_rule_and_it_is_said(rule, factor):
    config = load_config(None, [f"optim.lr_rule={rule}", "optim.lr_base_batch=512"])
    assert batch_size_factor(config) == factor
    (line,) = rate_lines(config)
    assert f"multiplied by {factor:g}" in line
    assert f"dense 0.02 -> {0.02 * factor:g}, sparse 0.05 -> {0.05 * factor:g}" in line
    assert (batch_size_factor(Config()), rate_lines(Config())) == (1.0, [])
