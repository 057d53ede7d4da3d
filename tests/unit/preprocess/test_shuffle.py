"""Rows are shuffled by random keys, and go to buckets by the same keys."""

import numpy as np
import pytest
import torch

from dlrm.counter_rng import random_bits, stream_key
from dlrm.preprocess.shuffle import Spread, bucket_rows, order_of, row_keys


def test_keys_are_the_random_bits_of_seed_file_and_line():
    lines = np.array([0, 1, 5, 2**40])
    expected = random_bits(stream_key(3, "preprocess", "shuffle", 2), torch.from_numpy(lines)).numpy()
    assert row_keys(lines, 2, 3).tolist() == expected.view(np.uint64).tolist()


@pytest.mark.parametrize("buckets", [1, 2, 3, 16, 1000])
def test_buckets_are_shares_of_the_keys_and_their_rows_stay_in_order(buckets):
    keys = row_keys(np.arange(5000), 0, 1)
    expected = [int(key) * buckets >> 64 for key in keys]
    if buckets > 1:  # shares of the keys' upper halves, which is the same but next to the borders
        expected = [(int(key) >> 32) * buckets >> 32 for key in keys]
    counts = np.bincount(expected, minlength=buckets)
    assert bucket_rows(keys, buckets).tolist() == counts.tolist()
    records = np.arange(15_000, dtype=np.uint32).reshape(5000, 3)
    spread = Spread.of(keys, buckets)
    order = np.argsort(expected, kind="stable")
    assert spread.ends_B.tolist() == np.cumsum(counts).tolist()
    assert spread.places_M[order].tolist() == list(range(5000))
    np.testing.assert_array_equal(spread.placed(records), records[order])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 4000])
@pytest.mark.parametrize("buckets", [1, 7, 300])
def test_the_rows_of_a_bucket_are_ordered_by_key_and_equal_keys_by_row(count, buckets):
    draw = np.random.default_rng(0)
    share = 2**64 // buckets
    for bucket in {0, buckets // 2, buckets - 1}:
        keys = draw.integers(bucket * share + 2**32, (bucket + 1) * share - 2**32, count, np.uint64)
        keys[count // 2 :] = keys[: count - count // 2][::-1]
        np.testing.assert_array_equal(order_of(keys, buckets), np.argsort(keys, kind="stable"))


def test_keys_that_differ_in_their_lower_halves_only_are_ordered_as_well():
    keys = np.random.default_rng(0).permutation(100).astype(np.uint64) + (np.uint64(1) << np.uint64(63))
    np.testing.assert_array_equal(order_of(keys, 5), np.argsort(keys))


def test_every_place_is_as_likely_for_every_row():
    rows, seeds = 8, 4000
    times = np.zeros((rows, rows))
    for seed in range(seeds):
        order = np.argsort(row_keys(np.arange(rows), 0, seed))
        times[np.arange(rows), order] += 1
    chi_squared = ((times - seeds / rows) ** 2 / (seeds / rows)).sum()
    assert chi_squared < 90  # 49 degrees of freedom: 1 in 3,000
