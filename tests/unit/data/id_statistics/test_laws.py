from itertools import pairwise

import numpy as np
import pytest

from dlrm.data.id_statistics.base import UniformIds, imbalance, row_ranges
from dlrm.data.id_statistics.power_law import PowerLawIds, partial_sums


def probabilities(rows: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, rows + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def drawn(probability_R: np.ndarray, lookups: int, times: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([rng.choice(len(probability_R), lookups, p=probability_R) for _ in range(times)])


@pytest.mark.parametrize(
    ("rows", "ranks", "edges"),
    [(10, 4, [0, 3, 6, 9, 10]), (9, 4, [0, 3, 6, 9, 9]), (3, 8, [0, 1, 2, 3, 3, 3, 3, 3, 3])],
)
def test_ranges_are_those_of_row_wise_sharding(rows, ranks, edges):
    assert row_ranges(rows, ranks) == edges


def test_imbalance_is_the_largest_over_the_mean():
    assert imbalance([0.25] * 4) == pytest.approx(1)
    assert imbalance([1, 0, 0, 0]) == 4
    assert imbalance([3, 1]) == 1.5


@pytest.mark.parametrize(("rows", "lookups"), [(50, 20), (50, 200), (1000, 1000), (1, 3)])
def test_uniform_ids_repeat_as_drawn_ones_do(rows, lookups):
    counted = [len(set(ids)) for ids in drawn(np.full(rows, 1 / rows), lookups, 2000)]
    assert UniformIds(rows).distinct(lookups) == pytest.approx(
        np.mean(counted), abs=4 * np.std(counted) / 2000**0.5 + 1e-9
    )


def test_uniform_ids_have_no_hot_rows_and_fall_to_ranks_by_their_rows():
    ids = UniformIds(10, ids_per_sample=3)
    assert ids.hot_share(0.01) == 0.01
    assert ids.row_range_shares(10, 4) == pytest.approx([0.3, 0.3, 0.3, 0.1])
    assert (ids.distinct(0), ids.distinct(1)) == (0, pytest.approx(1))


def test_few_lookups_of_a_large_uniform_table_are_all_different():
    assert UniformIds(40_000_000).distinct(1000) == pytest.approx(1000 - 1000 * 999 / 2 / 40e6, rel=1e-9)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("terms", [0, 1, 7, 1000, 1001, 30_000])
def test_partial_sums_are_sums(exponent, terms):
    assert partial_sums(exponent, terms) == pytest.approx((np.arange(1, terms + 1.0) ** -exponent).sum(), rel=1e-9)


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.0, 1.2])
@pytest.mark.parametrize("rows", [1, 10, 1000, 50_000])
@pytest.mark.parametrize("lookups", [1, 100, 10_000, 1_000_000])
def test_a_power_law_s_distinct_ids_are_the_sum_over_all_rows(rows, exponent, lookups):
    probability_R = probabilities(rows, exponent)
    with np.errstate(divide="ignore"):
        expected = -np.expm1(lookups * np.log1p(-probability_R)).sum()
    assert PowerLawIds(rows, exponent).distinct(lookups) == pytest.approx(expected, rel=2e-4)


def test_a_power_law_without_skew_is_uniform():
    for lookups in (1, 1000, 100_000):
        assert PowerLawIds(7000, 0).distinct(lookups) == pytest.approx(UniformIds(7000).distinct(lookups), rel=1e-4)
    assert PowerLawIds(7000, 0).hot_share(0.1) == pytest.approx(0.1)
    assert PowerLawIds(7000, 0).row_range_shares(7000, 3) == pytest.approx(UniformIds(7000).row_range_shares(7000, 3))


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_shares_of_hot_rows_and_of_ranges_are_sums_of_the_law(exponent):
    rows = 20_000
    probability_R = probabilities(rows, exponent)
    ids = PowerLawIds(rows, exponent)
    for fraction in (0.0001, 0.001, 0.01, 0.1, 1):
        assert ids.hot_share(fraction) == pytest.approx(probability_R[: int(fraction * rows)].sum(), rel=1e-6)
    assert ids.hot_share(0.5 / rows) == pytest.approx(probability_R[0] / 2)  # half of the hottest row
    edges = row_ranges(rows, 7)
    expected = [probability_R[start:stop].sum() for start, stop in pairwise(edges)]
    assert ids.row_range_shares(rows, 7) == pytest.approx(expected, rel=1e-6)


def test_more_ranks_than_rows_leave_some_without_lookups():
    assert UniformIds(3).row_range_shares(3, 8) == pytest.approx([1 / 3] * 3 + [0] * 5)
    assert PowerLawIds(3, 1.0).row_range_shares(3, 8)[3:] == [0] * 5
