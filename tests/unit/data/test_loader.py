import threading
import time
from dataclasses import dataclass

import pytest
import torch

from dlrm.data.batch import Batch
from dlrm.data.in_memory import InMemorySource
from dlrm.data.loader import BatchLoader, read_ahead
from dlrm.data.order import SampleOrder
from dlrm.data.source import Samples
from dlrm.errors import DataError
from dlrm.schema import Schema

SCHEMA = Schema.numbered(2, rows=[10_000, 7, 11], hotness=[1, 2, 1])


def source_of(count: int) -> InMemorySource:
    """Sample i has dense values (i, -i) and first id i."""
    i = torch.arange(count)
    ids = torch.stack([i, i % 7, (i + 1) % 7, i % 11], dim=1)
    return InMemorySource("memory", SCHEMA, torch.stack([i, -i], dim=1).float(), ids.int(), (i % 2).byte())


@dataclass(frozen=True)
class Broken:
    """Samples that cannot be read from some place on."""

    good: InMemorySource
    from_index: int
    error: BaseException
    name = "broken"
    schema = SCHEMA

    @property
    def num_samples(self) -> int:
        return self.good.num_samples

    def read(self, index_B: torch.Tensor) -> Samples:
        if (index_B >= self.from_index).any():
            raise self.error
        return self.good.read(index_B)


def loader_of(count, batch_size, **kwargs):
    order = SampleOrder(count, global_batch_size=batch_size, seed=1, shuffle=True)
    return BatchLoader(source_of(count), order, **kwargs)


def rows_of(batch: Batch) -> list[int]:
    """The samples in a batch, after a look at whether all of its parts are of the same samples."""
    rows = batch.dense[batch.weights > 0][:, 0].long()
    assert torch.equal(batch.dense[: len(rows), 1], -rows.float())
    assert torch.equal(batch.labels[: len(rows)], (rows % 2).float())
    for key, expected in (("cat_0", rows[:, None]), ("cat_1", torch.stack([rows % 7, (rows + 1) % 7], dim=1))):
        assert [bag.tolist() for bag in batch.sparse[key].to_dense()][: len(rows)] == expected.tolist()
    return rows.tolist()


def read_ahead_threads() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


def wait_for_no_threads() -> None:
    deadline = time.monotonic() + 20
    while read_ahead_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert read_ahead_threads() == 0


@pytest.fixture(autouse=True)
def no_thread_stays_behind():
    yield
    wait_for_no_threads()


# Batches


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 64, 103])
def test_the_batches_of_all_ranks_hold_the_global_batches_in_order(count, world_size):
    loaders = [loader_of(count, 16, rank=rank, world_size=world_size) for rank in range(world_size)]
    order = loaders[0].order
    batches = [list(loader.batches(2, 0, order.num_batches)) for loader in loaders]
    for k in range(order.num_batches):
        parts = [batches[rank][k] for rank in range(world_size)]
        assert [row for part in parts for row in rows_of(part)] == order.indices(2, k).tolist()
        assert {len(part.labels) for part in parts} == {order.rank_size(k, world_size)}
        scale = torch.tensor(world_size / order.samples_in(k))
        assert all(torch.equal(part.loss_scale, scale) for part in parts)


def test_from_any_position_on_the_batches_are_those_of_the_whole_epoch():
    loader = loader_of(103, 16, rank=1, world_size=2)
    last = loader.order.num_batches
    for epoch in range(2):
        whole = [rows_of(batch) for batch in loader.batches(epoch, 0, last)]
        assert [rows_of(loader.batch(epoch, k)) for k in range(last)] == whole
        for start in range(last + 1):
            for stop in range(start, last + 1):
                assert [rows_of(batch) for batch in loader.batches(epoch, start, stop)] == whole[start:stop]


def test_a_bad_sample_is_reported_after_all_batches_before_its_own():
    source = source_of(40)
    source.ids_MS[25, 0] = 10_000
    loader = BatchLoader(source, SampleOrder(40, global_batch_size=8), prefetch_batches=2)
    seen = []
    with pytest.raises(DataError, match="memory, row 26, column cat_0: id 10000 is outside"):
        seen.extend(map(rows_of, loader.batches(0, 0, 5)))
    assert seen == [list(range(k * 8, k * 8 + 8)) for k in range(3)]


@pytest.mark.parametrize("error", [DataError("a.tsv", "is torn"), RuntimeError("disk"), SystemExit(3)])
def test_what_a_source_raises_arrives_at_its_place(error):
    loader = BatchLoader(Broken(source_of(40), 20, error), SampleOrder(40, global_batch_size=8))
    batches = loader.batches(0, 0, 5)
    assert [rows_of(next(batches)) for _ in range(2)] == [list(range(8)), list(range(8, 16))]
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value is error
    assert next(batches, "nothing more") == "nothing more"


def test_memory_is_pinned_only_where_asked_for(monkeypatch):
    pinned = []
    monkeypatch.setattr(Batch, "pin_memory", lambda self: pinned.append(self) or self)
    for pin_memory, count in ((False, 0), (True, 3)):
        list(loader_of(40, 16, pin_memory=pin_memory).batches(0, 0, 3))
        assert len(pinned) == count


# Reading ahead


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
def test_reading_ahead_changes_neither_items_nor_their_order(depth):
    assert list(read_ahead(iter(range(50)), depth)) == list(range(50))
    assert list(read_ahead(iter([]), depth)) == []


def test_items_are_made_ahead_of_their_use_but_only_so_many():
    made = []
    items = read_ahead((made.append(i) or i for i in range(50)), depth=3)
    assert next(items) == 0
    deadline = time.monotonic() + 20
    while len(made) < 5 and time.monotonic() < deadline:  # one taken, three ready, one waiting for room
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5
    items.close()


def test_nothing_is_made_before_it_is_asked_for():
    made = []
    read_ahead((made.append(i) for i in range(5)), depth=2)
    assert (made, read_ahead_threads()) == ([], 0)


@pytest.mark.parametrize("taken", [1, 5])
def test_the_thread_ends_when_the_consumer_stops_early(taken):
    items = read_ahead(iter(range(10**9)), depth=2)
    for _ in range(taken):
        next(items)
    items.close()
    wait_for_no_threads()


def test_the_thread_ends_when_the_consumer_fails():
    with pytest.raises(ZeroDivisionError):
        _ = [1 / (item - 3) for item in read_ahead(iter(range(10**9)), depth=2)]
    wait_for_no_threads()


def test_the_thread_ends_when_the_consumer_forgets_the_iterator():
    items = read_ahead(iter(range(10**9)), depth=2)
    next(items)
    del items
    wait_for_no_threads()


def test_an_error_is_raised_at_the_place_of_its_item_and_ends_the_thread():
    def failing():
        yield from range(5)
        raise ValueError("the sixth")

    seen = []
    with pytest.raises(ValueError, match="the sixth"):
        seen.extend(read_ahead(failing(), depth=2))
    assert seen == [0, 1, 2, 3, 4]
