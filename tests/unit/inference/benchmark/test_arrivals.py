"""Arrivals are a Poisson process, and seeded."""

import numpy as np

from dlrm.inference.benchmark.arrivals import poisson_arrivals_s

RATE = 250.0
ARRIVALS_S = poisson_arrivals_s(RATE, 40_000, np.random.default_rng(7))
GAPS_S = np.diff(ARRIVALS_S, prepend=0.0)


def test_gaps_are_exponential():
    # Kolmogorov-Smirnov: the distance to 1 - exp(-rate t) is above 1.95 / sqrt(n) in one of a thousand samples.
    expected = 1 - np.exp(-RATE * np.sort(GAPS_S))
    steps = np.arange(len(GAPS_S) + 1) / len(GAPS_S)
    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
    assert distance < 1.95 / np.sqrt(len(GAPS_S))
    assert abs(GAPS_S.mean() * RATE - 1) < 4 / np.sqrt(len(GAPS_S))


def test_gaps_do_not_depend_on_each_other():
    assert abs(np.corrcoef(GAPS_S[:-1], GAPS_S[1:])[0, 1]) < 4 / np.sqrt(len(GAPS_S))


def test_counts_in_intervals_vary_as_much_as_they_are():
    counts = np.histogram(ARRIVALS_S, np.arange(0, ARRIVALS_S[-1], 0.1))[0]
    assert abs(counts.var() / counts.mean() - 1) < 4 * np.sqrt(2 / len(counts))


def test_a_seed_gives_the_same_moments_and_another_gives_others():
    assert (poisson_arrivals_s(RATE, 100, np.random.default_rng(7)) == ARRIVALS_S[:100]).all()
    assert (poisson_arrivals_s(RATE, 100, np.random.default_rng(8)) != ARRIVALS_S[:100]).all()
    assert (GAPS_S >= 0).all()
