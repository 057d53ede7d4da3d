"""The learning rate of a step: warm-up, hold, quadratic decay, minimum."""

from __future__ import annotations

from dlrm.config.optim import Schedule


def learning_rate(schedule: Schedule, base: float, step: int) -> float:
    """The rate of a step.

    With W = warmup_steps, D = decay_start_step and N = decay_steps, the MLPerf DLRM schedule as it was meant:
    ``base * step / W`` up to step W; ``base`` up to step D; ``base * ((N - (step - D)) / N)^2`` for the next N steps, and
    never below ``min_lr`` once decay has begun (a base below ``min_lr`` stays as it is).

    Args:
        schedule: the three phases.
        base: rate between warm-up and decay.
        step: the step about to be trained, counted from 1.
    """
    if step < schedule.warmup_steps:
        return base * step / schedule.warmup_steps
    if schedule.decay_start_step is None or schedule.decay_steps is None or step <= schedule.decay_start_step:
        return base
    left = max(0, schedule.decay_steps - (step - schedule.decay_start_step)) / schedule.decay_steps
    return max(base * left**2, min(schedule.min_lr, base))
