"""Stack distances, and streams made from them, against lists that do the same slowly."""

from __future__ import annotations

import numpy as np
import pytest

from dlrm.data.synthetic import lru_stack
from dlrm.data.synthetic.lru_stack import LruStack, stack_distances
from tests.unit.data.synthetic.id_streams import (
    drifting_stream,
    listed_distances,
    listed_replay,
    lru_hit_rate,
    scan_stream,
    zipf_stream,
)


def first_seen(ids: np.ndarray) -> np.ndarray:
    """The same stream with ids numbered in order of their first reference."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(i, len(numbers)) for i in ids.tolist()])


def test_distances_of_a_stream_small_enough_to_count():
    assert stack_distances(np.array([7, 7, 3, 7, 9, 3, 9])).tolist() == [0, 1, 0, 2, 0, 3, 2]
    assert stack_distances(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(("length", "ids"), [(1, 1), (400, 5), (2500, 300), (2500, 5000)])
def test_distances_equal_those_of_a_list(length, ids):
    stream = np.random.default_rng(length + ids).integers(-ids, ids, length) * 2**33
    assert stack_distances(stream).tolist() == listed_distances(stream.tolist())


@pytest.mark.parametrize("cache_rows", [1, 10, 500, 5000])
def test_a_cache_hits_what_lies_within_its_size(cache_rows):
    stream = drifting_stream(40_000)
    distances = stack_distances(stream)
    assert ((distances > 0) & (distances <= cache_rows)).mean() == lru_hit_rate(stream, cache_rows)


@pytest.mark.parametrize("fewest_slots", [64, 1 << 16])
@pytest.mark.parametrize(
    "stream",
    [zipf_stream(20_000, 3000, 1.05), scan_stream(9000, 700), drifting_stream(20_000), np.zeros(300, np.int64)],
)
def test_the_distances_of_a_stream_give_it_back(stream, fewest_slots, monkeypatch):
    monkeypatch.setattr(lru_stack, "_FEWEST_SLOTS", fewest_slots)  # 64: slots run out many times
    stack = LruStack(rows=10**6)
    assert np.array_equal(stack.replay(stack_distances(stream).astype(np.int64)), first_seen(stream))
    assert (stack.depth, stack.owed) == (len(np.unique(stream)), 0)


@pytest.mark.parametrize("fewest_slots", [64, 1 << 16])
@pytest.mark.parametrize("rows", [1, 3, 150, 1000, 10**9])
def test_any_distances_give_what_a_list_gives(rows, fewest_slots, monkeypatch):
    monkeypatch.setattr(lru_stack, "_FEWEST_SLOTS", fewest_slots)
    distances = np.random.default_rng(rows).integers(0, 400, 4000)
    stack = LruStack(rows)
    ids = np.concatenate([stack.replay(piece) for piece in np.split(distances, [0, 1, 77, 2500])])
    assert ids.tolist() == listed_replay(distances.tolist(), rows)


def test_a_distance_that_comes_too_early_takes_the_place_of_a_later_cold_reference():
    stack = LruStack(rows=100)
    ids = stack.replay(np.array([3, 3, 2, 0, 0, 0]))
    assert ids.tolist() == [0, 1, 0, 2, 1, 0]
    assert stack_distances(ids).tolist() == [0, 0, 2, 0, 3, 3]  # those asked for, in another order
    assert stack.owed == 0


def test_what_a_full_table_cannot_give_goes_to_the_row_unused_for_longest():
    ids = LruStack(rows=3).replay(np.array([0, 0, 0, 1, 0, 9, 2]))
    assert ids.tolist() == [0, 1, 2, 2, 0, 1, 0]
    assert stack_distances(ids).tolist() == [0, 0, 0, 1, 3, 3, 2]
