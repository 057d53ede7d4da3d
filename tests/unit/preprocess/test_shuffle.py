"""Rows are shuffled by random keys, and go to buckets by the same keys."""

import numpy as np
import pytest
import torch

from dlrm.counter_rng import random_bits, stream_key
from dlrm.preprocess.shuffle import BucketAssignment, lines_of, row_keys


def test_keys_are_the_random_bits_of_seed_file_and_line():
    lines = np.array([0, 1, 5, 2**40])
    expected = random_bits(stream_key(3, "preprocess", "shuffle", 2), torch.from_numpy(lines)).numpy()
    assert row_keys(lines, 2, 3).tolist() == expected.view(np.uint64).tolist()


@pytest.mark.parametrize("buckets", [1, 2, 3, 16, 255, 256, 1000, 70_000])
def test_buckets_are_shares_of_the_keys_and_their_rows_stay_in_order(buckets):
    keys = row_keys(np.arange(5000), 0, 1)
    expected = [int(key) * buckets >> 64 for key in keys]
    if buckets > 1:  # shares of the keys' upper halves, which is the same but next to the borders
        expected = [(int(key) >> 32) * buckets >> 32 for key in keys]
    assignment = BucketAssignment.of(keys, buckets)
    assert assignment.ends_B.tolist() == np.cumsum(np.bincount(expected, minlength=buckets)).tolist()
    assert assignment.order_M.tolist() == np.argsort(expected, kind="stable").tolist()


def test_lines_that_were_left_out_are_no_rows():
    assert lines_of(4, 100, np.array([], np.int64)).tolist() == [100, 101, 102, 103]
    assert lines_of(4, 100, np.array([0, 2, 3])).tolist() == [101, 104, 105, 106]


def test_every_place_is_as_likely_for_every_row():
    rows, seeds = 8, 4000
    times = np.zeros((rows, rows))
    for seed in range(seeds):
        order = np.argsort(row_keys(np.arange(rows), 0, seed))
        times[np.arange(rows), order] += 1
    chi_squared = ((times - seeds / rows) ** 2 / (seeds / rows)).sum()
    assert chi_squared < 90  # 49 degrees of freedom: 1 in 3,000
