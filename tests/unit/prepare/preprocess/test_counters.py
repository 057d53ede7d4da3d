import numpy as np
import pytest

from dlrm.prepare.preprocess.counters import VALUES, Counters, counter_bits
from tests.unit.prepare.preprocess.columns import HIGHEST, clustered_columns, distinct, present, skewed_column


def full_values(counters):
    return np.concatenate([np.empty(0, np.uint32), *(values.copy() for values in counters.full_values())])


def counted(columns, full, *, parts=1, missing_is_zero=False):
    """The values of all slices that are counted to ``full``, in the order in which they are found."""
    found = []
    for number in range(counter_bits(full)):
        counters = Counters(full, number, missing_is_zero=missing_is_zero)
        for part in range(parts):
            counters.add(columns, part=part, parts=parts)
        found.append(full_values(counters))
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
    categories, is_missing = np.array([0, 5, 0, 5, 0], np.uint32), np.array([True, True, True, False, False])
    assert counted([(categories, is_missing)], 1).tolist() == [0, 5]
    assert counted([(categories, is_missing)], 2).tolist() == []
    assert counted([(categories, is_missing)], 4, missing_is_zero=True).tolist() == [0]
    assert counted([(categories, is_missing)], 5, missing_is_zero=True).tolist() == []


@pytest.mark.parametrize("many_values", [False, True])
def test_what_is_expected_changes_nothing_that_is_found(many_values):
    categories, is_missing = skewed_column()
    counters = Counters(1, 0, missing_is_zero=False)
    counters.expect(many_values=many_values)
    counters.add([(categories, is_missing)])
    assert (full_values(counters) == np.unique(categories[~is_missing])).all()


@pytest.mark.parametrize("full", [2, 9, 200, 3000])
def test_counts_of_a_page_are_what_was_counted_and_can_be_replaced(full):
    counters = Counters(full, 0, missing_is_zero=False)
    counters.add([present(*[3] * 2, *[100] * 5, *[101] * (full + 5))])
    pages = np.array([0])
    counts = counters.unpacked(pages).reshape(-1)
    assert np.flatnonzero(counts).tolist() == [3, 100, 101]
    assert counts[[3, 100, 101]].tolist() == [2, min(5, full), full]

    counts[:] = 0
    counts[[0, 7, len(counts) - 1]] = full - 1, full, full + 1000
    counters.replace(pages, counts.reshape(1, 512, -1))
    assert full_values(counters).tolist() == [7, len(counts) - 1]
    assert counters.unpacked(pages).max() == full


def test_slices_cover_the_value_space_without_overlap():
    edges = [VALUES // 16 * number for number in range(16)]
    column = present(*edges, *(edge - 1 for edge in edges[1:]), HIGHEST)
    for full, bits in ((1, 1), (3, 2), (15, 4), (255, 8), (65_535, 16)):
        assert counter_bits(full) == bits
        repeated = [column] if full == 1 else [present(*np.repeat(column[0], full))]
        assert (counted(repeated, full) == distinct(column[0])).all()
