"""Days one after the other (law 1 within each day, law 4 over all)."""

import itertools

import pytest
import torch

from dlrm.data.day_order import DayOrder
from dlrm.data.order import SampleOrder

SIZES = (23, 10, 3, 41)
BATCH = 8
WAYS = [
    {},
    {"shuffle": True},
    {"shuffle": True, "block_samples": 4, "window_blocks": 2},
    {"shuffle": True, "drop_last": True},
]


def order_of(**options):
    return DayOrder.of(SIZES, seed=5, global_batch_size=BATCH, **options)


def batches(order):
    return [order.indices(0, k).tolist() for k in range(order.num_batches)]


@pytest.mark.parametrize("options", WAYS)
def test_each_day_is_trained_whole_before_the_next_and_no_batch_has_two(options):
    order = order_of(**options)
    starts = list(itertools.accumulate(SIZES, initial=0))
    found = batches(order)
    sizes = [len(batch) for batch in found]
    expected = [min(BATCH, size - at) for size in SIZES for at in range(0, size, BATCH)]
    if options.get("drop_last"):
        expected = [size for size in expected if size == BATCH]
    assert sizes == [order.samples_in(k) for k in range(order.num_batches)] == expected
    assert [order.samples_before(k) for k in range(order.num_batches + 1)] == list(
        itertools.accumulate(sizes, initial=0)
    )
    days = [[sum(start <= index for start in starts) - 1 for index in batch] for batch in found]
    assert all(len(set(of_batch)) == 1 for of_batch in days)
    assert [of_batch[0] for of_batch in days] == sorted(of_batch[0] for of_batch in days)
    flat = list(itertools.chain.from_iterable(found))
    assert len(set(flat)) == len(flat)
    if not options.get("drop_last"):
        assert sorted(flat) == list(range(sum(SIZES)))
    begins = order.begins
    assert all(days[batch][0] == day and days[batch - 1][0] < day for batch, day in begins.items())
    assert len(begins) == len({of_batch[0] for of_batch in days}) - 1


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_take_slices_and_micro_batches_are_the_batch(options, ranks):
    order = order_of(**options)
    micro = order.micro_batches(4)
    for k, batch in enumerate(batches(order)):
        of_ranks = [order.indices(0, k, rank, ranks) for rank in range(ranks)]
        assert torch.cat(of_ranks).tolist() == batch
        assert all(len(of_rank) <= order.rank_size(k, ranks) for of_rank in of_ranks)
        parts = [micro.indices(0, j).tolist() for j in order.micro_numbers(k, micro)]
        assert list(itertools.chain.from_iterable(parts)) == batch
        assert all(parts)


def test_days_of_one_size_are_shuffled_each_by_itself():
    order = DayOrder.of((50, 50), seed=1, global_batch_size=50, shuffle=True)
    first, second = order.indices(0, 0), order.indices(0, 1) - 50
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()


def test_a_day_by_itself_is_a_sample_order():
    as_stored = DayOrder.of((9, 12), seed=1, global_batch_size=5)
    alone = SampleOrder(12, global_batch_size=5, first=9)
    assert [as_stored.indices(0, k).tolist() for k in (2, 3, 4)] == [alone.indices(0, k).tolist() for k in range(3)]
    assert as_stored.begins == {2: 1}
