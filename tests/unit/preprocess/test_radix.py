"""Values are sorted as numpy sorts them."""

import numpy as np
import pytest

from dlrm.preprocess.radix import sort_values


@pytest.mark.parametrize("count", [0, 1, 2, 2047, 2048, 5000, 300_001])
@pytest.mark.parametrize("highest", [2, 2**11, 2**22 + 5, 2**32])
def test_the_order_is_that_of_numpy(count, highest):
    values = np.random.default_rng(count).integers(0, highest, count, dtype=np.uint64).astype(np.uint32)
    expected = np.sort(values)
    sort_values(values, np.empty(count, np.uint32))
    np.testing.assert_array_equal(values, expected)


def test_scratch_may_be_longer_and_nothing_else_is_written():
    whole = np.random.default_rng(0).integers(0, 2**32, 10_000, dtype=np.uint64).astype(np.uint32)
    before, scratch = whole.copy(), np.full(9000, 7, np.uint32)
    sort_values(whole[1000:8000], scratch)
    np.testing.assert_array_equal(whole[1000:8000], np.sort(before[1000:8000]))
    np.testing.assert_array_equal(whole[:1000], before[:1000])
    np.testing.assert_array_equal(whole[8000:], before[8000:])
    assert (scratch[7000:] == 7).all()
