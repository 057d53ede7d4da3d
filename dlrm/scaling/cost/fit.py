"""Correcting the model by measured steps: a factor for each of its terms.

The time of a step is a sum of terms (:data:`dlrm.scaling.cost.rates.TERMS`), so the factors that fit measured steps best
are a linear problem. Each step counts by its relative error, and each factor is drawn towards 1, so that a few steps
correct what they tell about and leave the rest as the micro-benchmarks have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dlrm.scaling.cost.microbenchmarks import non_negative
from dlrm.scaling.cost.rates import TERMS

_DRAWN = 0.1
"""How much a factor of 2 counts, in relative errors of a step."""
_LEAST = 0.05
"""A factor of 0 would hide its term from the next round."""


def fitted_factors(
    terms_s: Sequence[Mapping[str, float]], measured_s: Sequence[float], drawn: float = _DRAWN
) -> dict[str, float]:
    """The factors, by term.

    Args:
        terms_s: of each step, what the model says without factors.
        measured_s: of each step.
        drawn: to 1, how much: what a factor of 2 counts, in relative errors of a step.
    """
    amounts_NK = np.array([[step.get(term, 0.0) for term in TERMS] for step in terms_s])
    scaled_NK = amounts_NK / np.array(measured_s)[:, None]
    drawn_KK = drawn * np.eye(len(TERMS))
    a_NK = np.concatenate([scaled_NK, drawn_KK])
    b_N = np.concatenate([np.ones(len(measured_s)), np.full(len(TERMS), drawn)])
    return {term: max(_LEAST, float(factor)) for term, factor in zip(TERMS, non_negative(a_NK, b_N), strict=True)}


def spread_of(predicted_s: Sequence[float], measured_s: Sequence[float]) -> float:
    """Standard deviation of the logarithm of measured over predicted times."""
    return float(np.sqrt(np.mean(np.log(np.array(measured_s) / np.array(predicted_s)) ** 2)))


def median_error(predicted_s: Sequence[float], measured_s: Sequence[float]) -> float:
    """Median of the relative errors."""
    return float(np.median(np.abs(np.array(predicted_s) / np.array(measured_s) - 1)))


def refit(
    cost: Callable[[Mapping[str, float]], Sequence[Mapping[str, float]]],
    measured_s: Sequence[float],
    rounds: int = 3,
    drawn: float = _DRAWN,
) -> dict[str, float]:
    """Factors of a model whose terms depend on them a little: which rank is the slowest in a phase.

    Args:
        cost: terms of each step, without factors, where these factors decide.
        measured_s: of each step.
        rounds: how often to solve.
        drawn: as :func:`fitted_factors` has it.
    """
    factors: dict[str, float] = {}
    for _ in range(rounds):
        factors = fitted_factors(cost(factors), measured_s, drawn)
    return factors
