"""The smallest mix of precisions whose log loss on samples rises by no more than a budget.

Each table is lowered alone, to each precision, and measured. What tables do to a logit nearly adds up, and so do the
divergences, since errors of different tables have nothing to do with each other: a knapsack problem says which mix is the
smallest for a given sum of them. How large that sum may be is found by bisection, where every mix is measured as a whole,
so that it is the joint model that keeps the budget and not the sum. Where there are few mixes all of them are measured, the
smallest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from dlrm.errors import ConfigError
from dlrm.inference.exported.manifest import Manifest, Precision
from dlrm.inference.quantise.knapsack import smallest_choice
from dlrm.inference.quantise.mixes import Cost, Mix, MixScorer, choices, size_of, table_bytes

MOST_MIXES = 256
"""All are measured up to so many: four tables."""
_AT_ONCE = 16
_TABLES_AT_ONCE = 8
_BISECTIONS = 14


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        mix: precision of each table; rise: of the log loss on the samples it was chosen with.
        alone: for each table what each of its precisions costs if that table alone is lowered.
    """

    mix: Mix
    rise: float
    alone: tuple[dict[Precision, Cost], ...]


def smallest_mix(scorer: MixScorer, manifest: Manifest, budget: float, *, tell: Callable[[str], None]) -> Found:
    """Search.

    Args:
        scorer: measures mixes.
        manifest: of the export.
        budget: the most by which the log loss may rise.
        tell: is told what is done.

    Raises:
        ConfigError: no mix keeps the budget: the dense part costs more.
    """
    possible = choices(manifest)
    (plain,) = scorer.costs([scorer.plain])
    if plain.rise > budget:
        message = f"is {budget:g}, and the dense part alone raises the log loss by {plain.rise:.6f}: set dense to fp32"
        raise ConfigError.at("budget", message)
    alone = _each_alone(scorer, possible, tell)
    if math.prod(map(len, possible)) <= MOST_MIXES:
        mix = _smallest_of_all(scorer, possible, manifest, budget, tell)
    else:
        mix = _smallest_by_knapsack(scorer, possible, manifest, budget, alone, tell)
    (cost,) = scorer.costs([mix])
    return Found(mix, cost.rise, tuple(alone))


def _each_alone(scorer: MixScorer, possible: Sequence[Mix], tell: Callable[[str], None]) -> list[dict[Precision, Cost]]:
    found: list[dict[Precision, Cost]] = []
    for start in range(0, len(possible), _TABLES_AT_ONCE):
        tell(f"each table alone: {start} of {len(possible)}")
        some = list(enumerate(possible))[start : start + _TABLES_AT_ONCE]
        scorer.costs(
            [_with(scorer.plain, number, precision) for number, precisions in some for precision in precisions]
        )
        for number, precisions in some:
            costs = scorer.costs([_with(scorer.plain, number, precision) for precision in precisions])
            found.append(dict(zip(precisions, costs, strict=True)))
    return found


def _smallest_of_all(
    scorer: MixScorer, possible: Sequence[Mix], manifest: Manifest, budget: float, tell: Callable[[str], None]
) -> Mix:
    mixes: list[Mix] = sorted(product(*possible), key=lambda mix: table_bytes(manifest, mix))
    for start in range(0, len(mixes), _AT_ONCE):
        tell(f"all mixes, the smallest first: {start} of {len(mixes)}")
        some = mixes[start : start + _AT_ONCE]
        for mix, cost in zip(some, scorer.costs(some), strict=True):
            if cost.rise <= budget:
                return mix
    return scorer.plain


def _smallest_by_knapsack(
    scorer: MixScorer,
    possible: Sequence[Mix],
    manifest: Manifest,
    budget: float,
    alone: Sequence[dict[Precision, Cost]],
    tell: Callable[[str], None],
) -> Mix:
    sizes = [[size_of(manifest, number, p) for p in precisions] for number, precisions in enumerate(possible)]
    divergences = [[costs[p].divergence for p in precisions] for costs, precisions in zip(alone, possible, strict=True)]

    def mix_for(limit: float) -> Mix:
        items = smallest_choice(divergences, sizes, limit)
        assert items is not None, "fp32 has no divergence"
        return tuple(precisions[item] for precisions, item in zip(possible, items, strict=True))

    def holds(mix: Mix) -> bool:
        tell(f"the whole model with tables of {table_bytes(manifest, mix):,} bytes")
        return scorer.costs([mix])[0].rise <= budget

    low, high = 0.0, sum(max(costs) for costs in divergences)
    lowest = tuple(precisions[-1] for precisions in possible)
    if holds(lowest):
        return lowest
    best, limit = scorer.plain, min(budget, high / 2)
    for _ in range(_BISECTIONS):
        mix = mix_for(limit)
        if holds(mix):
            best, low = mix, limit
        else:
            high = limit
        limit = (low + high) / 2
    return _lowered_further(best, possible, manifest, holds)


def _lowered_further(mix: Mix, possible: Sequence[Mix], manifest: Manifest, holds: Callable[[Mix], bool]) -> Mix:
    """Lower single tables by one precision as long as the budget holds, those that save most first."""

    def saved(lower: Mix) -> int:
        return table_bytes(manifest, mix) - table_bytes(manifest, lower)

    steps = [
        (number, precisions[precisions.index(mix[number]) + 1])
        for number, precisions in enumerate(possible)
        if mix[number] != precisions[-1]
    ]
    best = mix
    for number, precision in sorted(steps, key=lambda step: -saved(_with(mix, *step))):
        if holds(candidate := _with(best, number, precision)):
            best = candidate
    return best


def _with(mix: Mix, number: int, precision: Precision) -> Mix:
    """The mix with another precision of a table."""
    return (*mix[:number], precision, *mix[number + 1 :])
