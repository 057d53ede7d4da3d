import numpy as np
import pytest

from dlrm.prepare.preprocess.counters import VALUES, Counters, counter_bits
from tests.unit.prepare.preprocess.columns import HIGHEST, clustered_columns, distinct, present, skewed_column


def taken(counters, number):
    return np.concatenate([np.empty(0, np.uint32), *(values.copy() for values in counters.take_full_values(number))])


def counted(columns, full, *, parts=1, missing_is_zero=False):
    """The values of all slices that are counted to ``full``, in the order in which they are found."""
    counters = Counters(full, missing_is_zero=missing_is_zero)
    found = []
    for number in range(counters.bits):
        for part in range(parts):
            counters.add(columns, number, part=part, parts=parts)
        found.append(taken(counters, number))
        assert not counters.touched_L.any()
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("full", "bits"), [(1, 1), (2, 2), (3, 2), (4, 4), (15, 4), (16, 8), (255, 8), (256, 16), (65_535, 16)]
)
def test_counters_are_as_wide_as_the_threshold_needs(full, bits):
    assert counter_bits(full) == bits
    assert 2**bits > full


@pytest.mark.parametrize("full", [1, 2, 3, 4, 15, 16, 255, 256, 300])
def test_a_value_is_full_at_its_threshold_and_not_one_occurrence_before(full):
    values = np.array([0, 1, 2**31 - 1, 2**31, HIGHEST - 1, HIGHEST], np.uint32)
    rows = np.repeat(values, [full, full - 1, full + 1, full, full - 1, 3 * full])
    columns = [present(*np.random.default_rng(0).permutation(rows))]
    assert counted(columns, full).tolist() == [0, 2**31 - 1, 2**31, HIGHEST]


def test_a_full_counter_stays_full_however_often_its_value_occurs_and_leaves_its_neighbours_alone():
    often = present(*[8] * 100_000)
    assert counted([often, present(7, 9)], 3).tolist() == [8]
    assert counted([often, present(7, 9)], 1).tolist() == [7, 8, 9]


@pytest.mark.parametrize("name", clustered_columns())
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_values_wherever_they_lie_are_found_once_whoever_counts_them(name, parts):
    values = clustered_columns()[name]
    column = present(*np.random.default_rng(0).permutation(np.repeat(values, 2)))
    assert (counted([column], 1, parts=parts) == distinct(values)).all()
    assert (counted([column], 2, parts=parts) == distinct(values)).all()
    assert len(counted([column], 3, parts=parts)) == 0


def test_missing_values_are_not_counted_or_are_zeros():
    categories, is_missing = np.array([0, 0, 0, 5, 0], np.uint32), np.array([True, True, True, False, False])
    assert counted([(categories, is_missing)], 1).tolist() == [0, 5]
    assert counted([(categories, is_missing)], 2).tolist() == []
    assert counted([(categories, is_missing)], 1, missing_is_zero=True).tolist() == [0, 5]
    assert counted([(categories, is_missing)], 4, missing_is_zero=True).tolist() == [0]
    assert counted([(categories, is_missing)], 5, missing_is_zero=True).tolist() == []


@pytest.mark.parametrize("full", [1, 2, 300])
def test_taken_counters_are_0_and_count_anew(full):
    first, second = (np.repeat(skewed_column(seed=seed)[0], full) for seed in (1, 2))
    counters = Counters(full, missing_is_zero=False)
    for column in (first, first[:-1], second):
        counters.add([present(*column)], 0)
        values, counts = np.unique(column, return_counts=True)
        of_slice = values < VALUES // counters.bits
        assert (taken(counters, 0) == values[of_slice & (counts >= full)]).all()
        assert len(taken(counters, 0)) == 0


def test_more_values_than_are_taken_at_a_time_are_taken_in_order():
    values = np.arange(5_000_000, 8_000_000, dtype=np.uint32)
    found = counted([(values, np.zeros(len(values), bool))], 1, parts=2)
    assert (found == values).all()


@pytest.mark.parametrize("full", [2, 9, 200, 3000])
def test_counts_of_a_line_are_what_was_counted_and_can_be_replaced(full):
    counters = Counters(full, missing_is_zero=False)
    counters.add([present(*[3] * 2, *[20] * 5, *[21] * (full + 5))], 0)
    lines = np.array([0])
    counts = counters.unpacked(lines).reshape(-1)
    assert np.flatnonzero(counts).tolist() == [3, 20, 21]
    assert counts[[3, 20, 21]].tolist() == [2, min(5, full), full]

    counts[:] = 0
    counts[[0, 7, len(counts) - 1]] = full - 1, full, full + 1000
    counters.replace(lines, counts.reshape(1, 8, -1))
    assert counters.unpacked(lines).max() == full
    assert taken(counters, 0).tolist() == [7, len(counts) - 1]


def test_slices_cover_the_value_space_without_overlap():
    edges = [VALUES // 16 * number for number in range(16)]
    column = present(*edges, *(edge - 1 for edge in edges[1:]), HIGHEST)
    for full, bits in ((1, 1), (3, 2), (15, 4), (255, 8), (65_535, 16)):
        assert counter_bits(full) == bits
        repeated = [column] if full == 1 else [present(*np.repeat(column[0], full))]
        assert (counted(repeated, full) == distinct(column[0])).all()
