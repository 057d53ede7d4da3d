from itertools import pairwise

import numpy as np
import pytest

from dlrm.data.id_statistics.base import UniformIds, imbalance, row_ranges
from dlrm.data.id_statistics.measured import MeasuredIds, measure_ids
from dlrm.data.id_statistics.power_law import PowerLawIds

ROWS = 20_000


def zipf_ids(count: int, *, rows: int = ROWS, exponent: float = 1.05, seed: int = 3) -> np.ndarray:
    weights = np.arange(1, rows + 1, dtype=np.float64) ** -exponent
    return np.random.default_rng(seed).choice(rows, count, p=weights / weights.sum())


def uniform_ids(count: int, rows: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, rows, count)


def measured(ids_M: np.ndarray, rows: int = ROWS) -> MeasuredIds:
    return measure_ids("cat", rows, ids_M, np.arange(len(ids_M)))


@pytest.mark.parametrize("lookups", [1, 2, 10, 100, 1000, 5000, 19_999, 20_000])
def test_distinct_ids_of_a_batch_are_those_of_batches_that_are_drawn(lookups):
    ids_M = zipf_ids(20_000)
    rng = np.random.default_rng(7)
    counted = [len(np.unique(rng.choice(ids_M, lookups, replace=False))) for _ in range(300)]
    error = 4 * np.std(counted) / len(counted) ** 0.5
    assert measured(ids_M).distinct(lookups) == pytest.approx(np.mean(counted), rel=0.003, abs=error + 1e-6)


def test_an_id_with_half_of_all_lookups_is_counted_exactly():
    ids_M = np.concatenate([np.zeros(50, int), np.arange(1, 51)])
    found = measured(ids_M, 100)
    assert found.distinct(1) == pytest.approx(1, abs=1e-3)
    # Of two lookups, without replacement: 2 unless both are id 0.
    assert found.distinct(2) == pytest.approx(2 - (50 * 49) / (100 * 99), rel=2e-3)
    assert found.distinct(100) == pytest.approx(51)


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.3])
@pytest.mark.parametrize(
    ("lookups", "error"), [(10, 0.01), (30_000, 0.02), (60_000, 0.02), (120_000, 0.07), (300_000, 0.2)]
)
def test_the_distinct_ids_of_more_lookups_than_were_sampled_go_on_as_the_law_does(exponent, lookups, error):
    found = measured(zipf_ids(60_000, exponent=exponent))
    assert found.distinct(lookups) == pytest.approx(PowerLawIds(ROWS, exponent).distinct(lookups), rel=error)


def test_a_table_that_was_seen_whole_has_no_further_ids():
    found = measured(uniform_ids(10_000, 50), 50)
    assert found.distinct(10**9) == 50
    assert found.distinct(200) == pytest.approx(UniformIds(50).distinct(200), rel=0.01)


def test_uniform_ids_of_a_large_table_have_no_hot_rows_though_each_was_seen_once():
    found = measured(uniform_ids(50_000, 4_000_000), 4_000_000)
    for fraction in (0.0001, 0.001, 0.01, 0.1, 1):
        assert found.hot_share(fraction) == pytest.approx(fraction, rel=0.15, abs=2e-4)
    assert found.distinct(400_000) == pytest.approx(UniformIds(4_000_000).distinct(400_000), rel=0.02)


@pytest.mark.parametrize("fraction", [0.0005, 0.001, 0.01, 0.1, 1.0])
def test_the_share_of_hot_rows_is_the_law_s(fraction):
    found = measured(zipf_ids(200_000, exponent=1.1)).hot_share(fraction)
    truth = PowerLawIds(ROWS, 1.1).hot_share(fraction)
    assert truth - 0.02 < found <= truth + 0.02  # which rows are hot is known from a half of the sample only


@pytest.mark.parametrize("exponent", [0.8, 1.05, 1.3])
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.5])
def test_hot_rows_of_a_table_that_was_hardly_seen_go_on_as_the_law_does(exponent, fraction):
    rows = 2_000_000
    law = PowerLawIds(rows, exponent)
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
    ids_M = np.searchsorted(cumulative, np.random.default_rng(3).random(60_000) * cumulative[-1])
    assert law.hot_share(fraction) - 0.13 < measured(ids_M, rows).hot_share(fraction) < law.hot_share(fraction) + 0.02


def test_the_hottest_rows_and_their_counts_are_those_of_the_sample():
    ids_M = zipf_ids(30_000)
    counts_R = np.bincount(ids_M, minlength=ROWS)
    found = measured(ids_M)
    assert len(found.hot_rows) == 64
    assert sorted(found.hot_counts, reverse=True) == list(found.hot_counts) == sorted(counts_R, reverse=True)[:64]
    assert [counts_R[row] for row in found.hot_rows] == list(found.hot_counts)


@pytest.mark.parametrize("ranks", [1, 2, 7, 64])
def test_skewed_rows_fall_to_ranks_as_they_were_counted(ranks):
    ids_M = zipf_ids(100_000)
    edges = row_ranges(ROWS, ranks)
    counted = [((start <= ids_M) & (ids_M < stop)).mean() for start, stop in pairwise(edges)]
    shares = measured(ids_M).row_range_shares(ROWS, ranks)
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx(counted, abs=0.003)
    assert imbalance(shares) == pytest.approx(imbalance(counted), rel=0.01)


def test_a_hot_row_in_the_middle_makes_its_rank_slow():
    ids_M = uniform_ids(100_000, ROWS)
    ids_M[::4] = 12_345
    shares = measured(ids_M).row_range_shares(ROWS, 8)
    assert int(np.argmax(shares)) == 12_345 // (ROWS // 8)
    assert imbalance(shares) == pytest.approx(8 * (0.25 + 0.75 / 8), rel=0.01)


@pytest.mark.parametrize("rows", [1000, 20_000, 4_000_000])
def test_chance_alone_makes_no_rank_slow(rows):
    ids_M = uniform_ids(100_000, rows)
    edges = row_ranges(rows, 50)
    counted = [((start <= ids_M) & (ids_M < stop)).sum() for start, stop in pairwise(edges)]
    assert imbalance(counted) > 1.03
    assert imbalance(measured(ids_M, rows).row_range_shares(rows, 50)) < 1.015


def test_a_table_of_another_size_is_stretched():
    found = measured(zipf_ids(50_000))
    assert found.row_range_shares(2 * ROWS, 4) == pytest.approx(found.row_range_shares(ROWS, 4))


def test_the_pooling_factor_is_the_mean_number_of_ids():
    found = measure_ids("cat", 10, np.array([1, 2, 3, 4, 5]), np.array([0, 0, 0, 2, 3]))
    assert found.ids_per_sample == 1.25


def test_ids_that_are_none_of_the_table_are_left_out():
    found = measured(np.array([-1, 0, 1, 2, 10, 3]), 10)
    assert (found.lookups, found.seen) == (4, 4)


def test_one_id_and_no_id_at_all_are_answered_too():
    one = measured(np.array([7]), 10)
    assert (one.distinct(1), one.hot_share(0.5)) == (1, 0.5)
    assert one.row_range_shares(10, 2) == [0.5, 0.5]  # one lookup says nothing of the others
    none = measure_ids("cat", 10, np.empty(0, int), np.empty(0, int))
    assert none.hot_share(0.5) == 0.5
    assert none.row_range_shares(10, 2) == [0.5, 0.5]
