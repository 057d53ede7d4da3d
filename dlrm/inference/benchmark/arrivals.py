"""When requests arrive that do not wait for each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def poisson_arrivals_s(rate_per_s: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Moments of a Poisson process, seconds from its start, ascending: gaps are exponential with mean 1 / rate.

    Args:
        rate_per_s: requests a second.
        count: of moments.
        rng: what they are drawn with.
    """
    return rng.exponential(1.0 / rate_per_s, count).cumsum()
