"""The highest rate that something holds for."""

from __future__ import annotations

from collections.abc import Callable

Holds = Callable[[float, bool], bool]
"""rate, whether the run is a long one -> whether the bound holds."""

_STEP = 1.6
_MOST_CONFIRMATIONS = 8


def highest_rate(holds: Holds, *, first: float, lowest: float, highest: float, tolerance: float) -> float:
    """The highest rate that short runs find by bisection and a long run confirms; 0 where none does.

    Args:
        holds: makes a run.
        first: where to begin.
        lowest: below this it is not looked for.
        highest: nor above this.
        tolerance: at the end, the lowest rate that failed is within 1 + this of the one that did not.
    """
    low, high = _bracket(holds, first, lowest, highest)
    while low and high / low > 1 + tolerance:
        middle = (low * high) ** 0.5
        if holds(middle, False):
            low = middle
        else:
            high = middle
    for _ in range(_MOST_CONFIRMATIONS):
        if low < lowest:
            return 0.0
        if holds(low, True):
            return low
        low /= 1 + tolerance
    return 0.0


def _bracket(holds: Holds, first: float, lowest: float, highest: float) -> tuple[float, float]:
    """A rate that holds and one that does not, or is the highest; (0, ..) where none holds."""
    rate = max(first, lowest)
    if holds(rate, False):
        while rate < highest:
            low, rate = rate, min(rate * _STEP, highest)
            if not holds(rate, False):
                return low, rate
        return rate, rate
    while rate > lowest:
        high, rate = rate, max(rate / _STEP, lowest)
        if holds(rate, False):
            return rate, high
    return 0.0, rate
