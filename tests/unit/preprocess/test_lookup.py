import numpy as np
import pytest

from dlrm.preprocess.lookup import SortedValues
from tests.unit.preprocess.columns import HIGHEST, clustered_columns, distinct, present, skewed_column

RESERVED = {"missing_id": 0, "absent_id": 1, "first_id": 2}


def ids_of(values, categories, is_missing):
    ids = np.full(len(categories), -7, np.int32)
    lowest = SortedValues(values).ids(categories, is_missing, ids, **RESERVED)
    assert lowest == min(ids.tolist(), default=0)
    return ids


def ids_by_dict(values, categories, is_missing):
    place = {value: i + 2 for i, value in enumerate(values.tolist())}
    rows = zip(categories.tolist(), is_missing.tolist(), strict=True)
    return [0 if gone else place.get(value, 1) for value, gone in rows]


@pytest.mark.parametrize("name", clustered_columns())
def test_values_and_what_lies_beside_them_have_the_ids_of_a_dict(name):
    values = distinct(clustered_columns()[name])
    beside = np.concatenate([values, values + np.uint32(1), values - np.uint32(1), [0, HIGHEST, 2**31]])
    categories = np.random.default_rng(0).permutation(beside).astype(np.uint32)
    column = present(*categories)
    assert ids_of(values, *column).tolist() == ids_by_dict(values, *column)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 17, 511, 512, 513, 4096])
@pytest.mark.parametrize("rows", [0, 1, 511, 512, 513, 2000])
def test_vocabularies_and_columns_of_all_sizes_have_the_ids_of_a_dict(size, rows):
    categories, is_missing = skewed_column(rows=max(rows, 3))
    column = categories[:rows], is_missing[:rows]
    values = distinct(np.random.default_rng(size).permutation(categories)[:size])
    assert ids_of(values, *column).tolist() == ids_by_dict(values, *column)


def test_a_large_vocabulary_of_hashes_has_the_places_that_searchsorted_finds():
    rng = np.random.default_rng(3)
    values = distinct(rng.integers(0, 2**32, 3_000_000))
    categories = rng.choice(values, 100_000)
    assert (ids_of(values, *present(*categories)) == 2 + np.searchsorted(values, categories)).all()


def test_every_second_value_is_absent():
    values = distinct(np.arange(0, 2_000_000, 2))
    column = present(*np.arange(2_000_001))
    expected = np.where(column[0] % 2, 1, 2 + column[0] // 2)
    expected[-1] = 1
    assert (ids_of(values, *column) == expected).all()
