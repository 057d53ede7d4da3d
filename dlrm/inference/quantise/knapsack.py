"""The smallest choice of one item from each group whose costs add up to no more than a limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 4000
"""Into which the limit is divided; costs are rounded up to one, so that the limit is kept."""


def smallest_choice(
    costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], limit: float
) -> tuple[int, ...] | None:
    """Solve the multiple-choice knapsack problem by dynamic programming (Kellerer et al., "Knapsack Problems", 11.5).

    Args:
        costs: of the items of each group, not negative.
        sizes: of the same items.
        limit: of the sum of the costs of those that are chosen.

    Returns:
        the number of the item of each group; None if no choice keeps the limit.
    """
    step = limit / STEPS if limit > 0 else 1.0
    best = np.zeros(STEPS + 1)  # the smallest size of the groups so far, at a cost of so many steps at most
    taken: list[np.ndarray] = []
    used: list[list[int]] = []
    for group_costs, group_sizes in zip(costs, sizes, strict=True):
        steps = [_in_steps(cost, limit, step) for cost in group_costs]
        with_item = np.full((len(steps), STEPS + 1), np.inf)
        for item, (count, size) in enumerate(zip(steps, group_sizes, strict=True)):
            if count <= STEPS:
                with_item[item, count:] = best[: STEPS + 1 - count] + size
        taken.append(with_item.argmin(0))
        used.append(steps)
        best = with_item.min(0)
    if not np.isfinite(best[STEPS]):
        return None
    left, found = STEPS, []
    for items, steps in zip(reversed(taken), reversed(used), strict=True):
        item = int(items[left])
        found.append(item)
        left -= steps[item]
    return tuple(reversed(found))


def _in_steps(cost: float, limit: float, step: float) -> int:
    if cost <= 0:
        return 0
    # A hair less, or else a cost of the whole limit would be a step more than it by rounding.
    return int(np.ceil(cost / step * (1 - 1e-12))) if cost <= limit else STEPS + 1
