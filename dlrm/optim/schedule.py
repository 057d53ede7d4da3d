"""The learning rate of a step: warm-up, hold, decay, minimum; and what the size of a batch makes of it."""

from __future__ import annotations

import math

from dlrm.config import Config
from dlrm.config.optim import (
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    LearningRates,
    LinearSchedule,
    Schedule,
    StepSchedule,
)


def learning_rate(schedule: LearningRates, base: float, step: int) -> float:
    """The rate of a step.

    With W = warmup_steps, D = decay_start_step and N = decay_steps, the MLPerf DLRM schedule as it was meant:
    ``base * step / W`` up to step W; ``base`` up to step D; ``base * ((N - (step - D)) / N)^2`` for the next N steps, and
    never below ``min_lr`` once decay has begun (a base below ``min_lr`` stays as it is). Other kinds decay otherwise.

    Args:
        schedule: which, and its phases.
        base: rate between warm-up and decay.
        step: the step about to be trained, counted from 1.
    """
    if step < schedule.warmup_steps:
        return base * step / schedule.warmup_steps
    least = min(schedule.min_lr, base)
    match schedule:
        case Schedule() | LinearSchedule() | CosineSchedule():
            if schedule.decay_start_step is None or schedule.decay_steps is None or step <= schedule.decay_start_step:
                return base
            left = max(0, schedule.decay_steps - (step - schedule.decay_start_step)) / schedule.decay_steps
            if isinstance(schedule, CosineSchedule):
                return least + (base - least) * (1 - math.cos(math.pi * left)) / 2
            return max(base * left ** (2 if isinstance(schedule, Schedule) else 1), least)
        case StepSchedule() | ExponentialSchedule():
            decayed = step - max(schedule.decay_start_step, schedule.warmup_steps)
            if decayed <= 0:
                return base
            times = (
                decayed // schedule.every_steps
                if isinstance(schedule, StepSchedule)
                else decayed / schedule.every_steps
            )
            return max(base * schedule.factor**times, least)
        case InverseSqrtSchedule():
            return max(base * math.sqrt(schedule.warmup_steps / step), least)


def batch_size_factor(config: Config) -> float:
    """With what the rates of a run are multiplied for the size of its batches (``optim.lr_rule``)."""
    if config.optim.lr_base_batch is None:
        return 1.0
    ratio = config.train.global_batch_size / config.optim.lr_base_batch
    return math.sqrt(ratio) if config.optim.lr_rule == "sqrt" else ratio


def rate_lines(config: Config) -> list[str]:
    """What the rule makes of the rates, in words; nothing without one."""
    optim = config.optim
    if optim.lr_base_batch is None:
        return []
    factor = batch_size_factor(config)
    dense, sparse = (f"{part.lr:g} -> {part.lr * factor:g}" for part in (optim.dense, optim.sparse))
    return [
        f"optim.lr_rule {optim.lr_rule}: learning rates are multiplied by {factor:g} for a train.global_batch_size of "
        f"{config.train.global_batch_size:,} and an optim.lr_base_batch of {optim.lr_base_batch:,}: "
        f"dense {dense}, sparse {sparse}"
    ]
