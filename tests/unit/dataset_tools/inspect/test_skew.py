import math
from collections import Counter

import numpy as np
import pytest

from dlrm.dataset_tools.inspect.skew import log_harmonic, skew_of, value_counts


def test_occurrences_are_what_counting_gives():
    values = np.random.default_rng(0).integers(-3, 40, 1000).astype(np.int32)
    expected = sorted(Counter(values.tolist()).items())
    distinct, counts = value_counts(values)
    assert list(zip(distinct.tolist(), counts.tolist(), strict=True)) == expected


def test_skew_by_hand():
    skew = skew_of(np.array([1, 4, 2, 1]))
    assert (skew.occurrences, skew.distinct) == (8, 4)
    assert skew.top == skew.top_percent == 0.5
    assert skew.entropy_bits == pytest.approx(0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)
    assert skew.effective_ids == pytest.approx(2**1.75)
    assert [array.tolist() for array in skew.curve] == [[1, 2, 3, 4], [4, 2, 1, 1]]


def test_equally_frequent_ids_have_no_skew():
    skew = skew_of(np.full(1000, 7))
    assert skew.top == 0.001
    assert skew.top_percent == pytest.approx(0.01)
    assert skew.effective_ids == pytest.approx(1000)
    assert skew.zipf_exponent == pytest.approx(0, abs=1e-3)


def test_a_single_id_has_no_exponent():
    skew = skew_of(np.array([9]))
    assert (skew.top, skew.top_percent, skew.entropy_bits, skew.effective_ids) == (1, 1, 0, 1)
    assert skew.zipf_exponent is None


def test_the_most_frequent_percent_of_the_ids_is_rounded_up():
    counts = np.arange(1, 102)  # 101 ids: two of them are the first percent
    assert skew_of(counts).top_percent == pytest.approx((101 + 100) / counts.sum())


@pytest.mark.parametrize("exponent", [0.3, 0.8, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("ids", [20, 5_000])
def test_the_exponent_of_counts_after_zipf_is_found_again(exponent, ids):
    counts = np.round(1e12 * np.arange(1.0, ids + 1) ** -exponent).astype(np.int64)
    found = skew_of(np.random.default_rng(0).permutation(counts)).zipf_exponent
    assert found == pytest.approx(exponent, abs=1e-4)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.0 + 1e-12, 1.7, 20.0])
@pytest.mark.parametrize("terms", [1, 999, 1000, 1001, 200_000])
def test_the_harmonic_number_is_the_sum_it_stands_for(exponent, terms):
    expected = math.log(math.fsum(r**-exponent for r in range(1, terms + 1)))
    assert log_harmonic(terms, exponent) == pytest.approx(expected, abs=1e-7)


def test_the_curve_has_few_points_and_ends_with_the_rarest_id():
    counts = np.random.default_rng(1).integers(1, 1000, 100_000)
    ranks, at_rank = skew_of(counts).curve
    descending = np.sort(counts)[::-1]
    assert len(ranks) <= 200
    assert (ranks[0], ranks[-1]) == (1, 100_000)
    assert at_rank.tolist() == descending[ranks - 1].tolist()
