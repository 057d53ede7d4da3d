"""Zipf ids against exact probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from dlrm.data.synthetic.zipf import ZipfQuantiles


def ids_at(uniform: torch.Tensor, rows: int, exponent: float) -> np.ndarray:
    ids = torch.empty(len(uniform), 1, dtype=torch.int64)
    ZipfQuantiles([rows], exponent)(uniform[:, None], ids)
    return ids[:, 0].numpy()


def uniform(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def partial_sum(exponent: float, last: int) -> float:
    """The sum of k^-s for k = 1 .. last by the Hurwitz zeta function, continued by digamma and Euler-Maclaurin."""
    if exponent == 1:
        return float(special.digamma(last + 1) - special.digamma(1))
    if exponent > 1:
        return float(special.zeta(exponent, 1) - special.zeta(exponent, last + 1))
    k = np.arange(1, min(last, 10**6) + 1, dtype=np.float64)
    total = float(np.sum(k**-exponent))
    if last > 10**6:
        a, b = 1e6, float(last)
        total += (b ** (1 - exponent) - a ** (1 - exponent)) / (1 - exponent)
        total += (b**-exponent - a**-exponent) / 2 - exponent * (b ** (-exponent - 1) - a ** (-exponent - 1)) / 12
    return total


@pytest.mark.parametrize("exponent", [0.4, 1.0, 1.05, 2.0])
@pytest.mark.parametrize("rows", [1, 3, 4096, 4097, 100_000])
def test_every_id_comes_at_the_quantiles_that_the_exact_sums_give(rows, exponent):
    at = uniform(200_000)
    cumulative = np.cumsum(np.arange(1, rows + 1.0) ** -exponent)
    exact = np.searchsorted(cumulative / cumulative[-1], at.numpy(), side="right")
    found = ids_at(at, rows, exponent)
    assert np.abs(found - exact).max() <= 1
    assert (found != exact).mean() < 1e-4  # those within 1e-8 of a step


@pytest.mark.parametrize("exponent", [0.4, 1.0, 1.05, 1.5])
@pytest.mark.parametrize("rows", [5000, 40_000_000, 2**31 - 1])
def test_counts_pass_a_chi_square_test_at_any_table_size(rows, exponent):
    ids = ids_at(uniform(400_000, seed=rows % 1000), rows, exponent)
    assert ids.min() >= 0
    assert ids.max() < rows
    # Every id of the first few, then groups that grow, across the place where the table of sums ends.
    edges = np.unique(
        np.concatenate([np.arange(1, 30), np.geomspace(30, rows, 60).astype(np.int64), [4096, 4097, rows]])
    )
    sums = np.array([partial_sum(exponent, int(edge)) for edge in edges])
    expected = np.diff(sums, prepend=0.0) / sums[-1] * len(ids)
    observed = np.histogram(ids + 1, bins=np.concatenate([[0.5], edges + 0.5]))[0]
    enough = expected >= 5
    observed = np.append(observed[enough], observed[~enough].sum())
    expected = np.append(expected[enough], expected[~enough].sum())
    statistic = ((observed - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert stats.chi2.sf(statistic, (expected > 0).sum() - 1) > 1e-3


@pytest.mark.parametrize("exponent", [1e-6, 0.999999999, 1.000000001, 5.0, 60.0, 1e4])
@pytest.mark.parametrize("rows", [1, 2, 4097, 2**31 - 1])
def test_extreme_exponents_and_quantiles_stay_in_the_table(rows, exponent):
    ids = ids_at(torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64), rows, exponent)
    assert ids[0] == 0
    assert 0 <= ids[1] <= ids[2] < rows
    if exponent < 1.1:
        assert ids[2] == rows - 1


def test_an_exponent_near_one_gives_what_one_gives():
    at = uniform(10_000)
    exact = ids_at(at, 10**8, 1.0)
    for exponent in (1 - 1e-12, 1 + 1e-12):
        assert np.allclose(ids_at(at, 10**8, exponent), exact, rtol=1e-8, atol=1)


def test_tables_of_different_sizes_stand_side_by_side():
    at = uniform(3000)
    together = torch.empty(1000, 3, dtype=torch.int64)
    ZipfQuantiles([7, 10**6, 5000], 1.1)(at.view(1000, 3), together)
    for column, rows in enumerate((7, 10**6, 5000)):
        assert np.array_equal(together[:, column], ids_at(at.view(1000, 3)[:, column].contiguous(), rows, 1.1))
