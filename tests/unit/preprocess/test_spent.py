"""Buckets are given back once all their rows are in parts, from the last one on."""

import random

import pytest

from dlrm.preprocess.rows import Draw
from dlrm.preprocess.spent import Spent


class FakeBuckets:
    """Notes what is cut and what has to be kept."""

    def __init__(self, count):
        self.rows = [10] * count
        self.cuts, self.kept = [], None

    def cut(self, buckets):
        self.cuts.append(buckets)

    def check_kept(self, buckets):
        self.kept = buckets


def draw(bucket, part="day_0", skip=0):
    return Draw(bucket, part, skip, 5, 10 * bucket + skip)


def test_a_bucket_goes_once_all_draws_of_it_and_of_those_behind_it_are_done():
    draws = [draw(0), draw(1), draw(1, "day_1", skip=5), draw(2), draw(3)]
    buckets = FakeBuckets(4)
    spent = Spent(buckets, draws, [], cuts=True)
    assert buckets.kept == 4
    for done, cuts in [(draws[3], []), (draws[1], []), (draws[4], [2]), (draws[2], [2, 1]), (draws[0], [2, 1, 0])]:
        spent.settle([done])
        assert buckets.cuts == cuts


def test_what_was_done_before_is_needed_no_more_and_is_cut_off_with_the_next():
    draws = [draw(bucket) for bucket in range(5)]
    buckets = FakeBuckets(5)
    spent = Spent(buckets, draws, draws[3:], cuts=True)
    assert (buckets.kept, buckets.cuts) == (3, [])
    spent.settle([draws[2]])
    assert buckets.cuts == [2]


def test_a_bucket_without_rows_is_never_waited_for():
    buckets = FakeBuckets(3)
    Spent(buckets, [draw(0)], [], cuts=True)
    assert buckets.kept == 1


@pytest.mark.parametrize("seed", range(3))
def test_in_any_order_nothing_needed_is_cut_off_and_there_are_few_cuts(seed):
    count = 320
    draws = [draw(bucket) for bucket in range(count)]
    buckets = FakeBuckets(count)
    spent = Spent(buckets, draws, [], cuts=True)
    order = random.Random(seed)
    left = sorted(draws, key=lambda one: -one.bucket + order.uniform(0, 30))
    while left:
        group, left = left[:7], left[7:]
        spent.settle(group)
        assert all(one.bucket < (buckets.cuts or [count])[-1] for one in left)
    assert buckets.cuts[-1] < count / 16
    assert len(buckets.cuts) <= 16


def test_nothing_is_cut_off_where_others_may_need_it():
    draws = [draw(bucket) for bucket in range(4)]
    buckets = FakeBuckets(4)
    Spent(buckets, draws, [], cuts=False).settle(draws)
    assert buckets.cuts == []
