import threading
import time

import pytest
import torch

import dlrm.data.loader as loader_module
from dlrm.data.batch import Batch, make_batch
from dlrm.data.fingerprint import FileFingerprint
from dlrm.data.in_memory import InMemorySource
from dlrm.data.loader import THREAD_NAME, BatchLoader, read_ahead
from dlrm.data.order import SampleOrder
from dlrm.data.source import Samples, Source
from dlrm.errors import DataError
from dlrm.schema import Schema

SCHEMA = Schema.numbered(2, rows=[10_000, 7, 11], hotness=[1, 2, 1])


def source_of(count: int) -> InMemorySource:
    """Sample i has dense values (i, -i) and first id i."""
    i = torch.arange(count)
    ids = torch.stack([i, i % 7, (i + 1) % 7, i % 11], dim=1)
    return InMemorySource("memory", SCHEMA, torch.stack([i, -i], dim=1).float(), ids.int(), (i % 2).byte()[:, None])


class Broken(Source):
    """Samples that cannot be read from some place on."""

    def __init__(self, good: InMemorySource, from_index: int, error: BaseException) -> None:
        super().__init__("broken", good.schema, good.num_samples)
        self._good, self._from_index, self._error = good, from_index, error

    def read(self, index_B: torch.Tensor) -> Samples:
        if (index_B >= self._from_index).any():
            raise self._error
        return self._good.read(index_B)

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        return self._good.fingerprint()


KINDS = {
    "stored": {"shuffle": False},
    "shuffled": {"shuffle": True},
    "in-blocks": {"shuffle": True, "block_samples": 8, "window_blocks": 3},
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def loader_of(count, batch_size, kind="shuffled", **kwargs):
    order = SampleOrder(count, global_batch_size=batch_size, seed=1, **KINDS[kind])
    return BatchLoader(source_of(count), order, **kwargs)


def rows_of(batch: Batch) -> list[int]:
    """The samples in a batch, after a look at whether all of its parts are of the same samples."""
    rows = batch.dense[batch.weights[:, 0] > 0][:, 0].long()
    assert torch.equal(batch.dense[: len(rows), 1], -rows.float())
    assert torch.equal(batch.labels[: len(rows), 0], (rows % 2).float())
    for key, expected in (("cat_0", rows[:, None]), ("cat_1", torch.stack([rows % 7, (rows + 1) % 7], dim=1))):
        assert [bag.tolist() for bag in batch.sparse[key].to_dense()][: len(rows)] == expected.tolist()
    return rows.tolist()


def read_ahead_threads() -> int:
    return sum(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())


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


@EVERY_KIND
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 64, 103])
def test_the_batches_of_all_ranks_hold_the_global_batches_in_order(count, world_size, kind):
    loaders = [loader_of(count, 16, kind, rank=rank, world_size=world_size) for rank in range(world_size)]
    order = loaders[0].order
    batches = [list(loader.batches(2, 0, order.num_batches)) for loader in loaders]
    for k in range(order.num_batches):
        parts = [batches[rank][k] for rank in range(world_size)]
        assert [row for part in parts for row in rows_of(part)] == order.indices(2, k).tolist()
        assert {len(part.labels) for part in parts} == {order.rank_size(k, world_size)}
        scale = torch.tensor(world_size / order.samples_in(k))
        assert all(torch.equal(part.loss_scale, scale) for part in parts)


@EVERY_KIND
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(("count", "drop_last"), [(64, False), (103, False), (103, True), (5, False)])
def test_micro_batches_are_consecutive_parts_of_a_global_batch_over_which_the_loss_is_averaged(
    count, drop_last, world_size, kind
):
    order = SampleOrder(count, global_batch_size=16, seed=1, drop_last=drop_last, **KINDS[kind])
    ranks = [
        list(
            BatchLoader(source_of(count), order, rank=rank, world_size=world_size, accumulation_steps=4).batches(
                2, 0, order.num_batches
            )
        )
        for rank in range(world_size)
    ]
    micro_batches = iter(zip(*ranks, strict=True))
    for k in range(order.num_batches):
        samples = order.indices(2, k).split(4)
        for number, expected in enumerate(samples, start=1):
            parts = next(micro_batches)
            assert [row for part in parts for row in rows_of(part)] == expected.tolist()
            assert {len(part.labels) for part in parts} == {-(-len(expected) // world_size)}
            assert all(part.ends_step == (number == len(samples)) for part in parts)
            assert all(part.loss_scale == torch.tensor(world_size / order.samples_in(k)) for part in parts)
    assert not list(micro_batches)


@EVERY_KIND
def test_a_loader_started_at_any_position_yields_exactly_the_later_batches(kind):
    batches = loader_of(103, 16, kind).order.num_batches
    seen = loader_of(103, 16, kind, rank=1, world_size=2)
    history = [(epoch, rows_of(batch)) for epoch in range(3) for batch in seen.batches(epoch, 0, batches)]
    for position in range(len(history)):
        epoch, k = divmod(position, batches)
        fresh = loader_of(103, 16, kind, rank=1, world_size=2)
        later = [(epoch, rows_of(batch)) for batch in fresh.batches(epoch, k, batches)]
        later += [(e, rows_of(batch)) for e in range(epoch + 1, 3) for batch in fresh.batches(e, 0, batches)]
        assert later == history[position:]


def test_from_any_position_on_the_batches_are_those_of_the_whole_epoch():
    loader = loader_of(103, 16, rank=1, world_size=2)
    last = loader.order.num_batches
    whole = [rows_of(batch) for batch in loader.batches(1, 0, last)]
    assert [rows_of(loader.batch(1, k)) for k in range(last)] == whole
    for start in range(last + 1):
        for stop in range(start, last + 1):
            assert [rows_of(batch) for batch in loader.batches(1, start, stop)] == whole[start:stop]


@EVERY_KIND
@pytest.mark.parametrize("prefetch_batches", [1, 4, 100])
def test_several_threads_give_the_same_batches_as_one(kind, prefetch_batches):
    expected = [rows_of(batch) for batch in loader_of(500, 16, kind).batches(0, 0, 32)]
    for threads in (2, 5):
        loader = loader_of(500, 16, kind, read_threads=threads, prefetch_batches=prefetch_batches)
        assert [rows_of(batch) for batch in loader.batches(0, 0, 32)] == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_a_bad_sample_is_reported_after_all_batches_before_its_own(threads):
    source = source_of(40)
    source.ids_MS[25, 0] = 10_000
    loader = BatchLoader(source, SampleOrder(40, global_batch_size=8), prefetch_batches=4, read_threads=threads)
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
    asked = []

    def noted(*args, pin_memory, **kwargs):
        asked.append(pin_memory)
        return make_batch(*args, **kwargs)

    monkeypatch.setattr(loader_module, "make_batch", noted)
    for pin_memory in (False, True):
        list(loader_of(40, 16, pin_memory=pin_memory).batches(0, 0, 3))
    assert asked == [False] * 3 + [True] * 3


def test_the_policy_for_bad_rows_reaches_the_samples_and_what_it_did_is_counted():
    source = source_of(40)
    source.ids_MS[25, 0] = 10_003
    source.bad_rows = "hash"
    loader = BatchLoader(source, SampleOrder(40, global_batch_size=8), read_threads=2)
    batches = list(loader.batches(0, 0, 5))
    assert batches[3].sparse["cat_0"].values().tolist() == [24, 3, *range(26, 32)]
    assert loader.bad_values.by_column(loader.bad_values.snapshot()) == {"cat_0": 1}


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_skipped_sample_is_padding_at_its_place_and_ranks_keep_in_step(world_size):
    source = source_of(40)
    source.ids_MS[25, 0] = -1
    source.bad_rows = "skip"
    order = SampleOrder(40, global_batch_size=8)
    loaders = [BatchLoader(source, order, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [list(loader.batches(0, 0, 5)) for loader in loaders]
    assert {len(part) for part in batches} == {5}
    whole = [
        torch.cat([part[3].weights[:, 0] for part in batches]),
        torch.cat([part[3].dense[:, 0] for part in batches]),
    ]
    assert whole[0][:8].tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
    assert whole[1][:8].tolist() == [24, 0, *range(26, 32)]
    assert [len(part[3].labels) for part in batches] == [order.rank_size(3, world_size)] * world_size
    assert sum(loader.bad_values.snapshot() for loader in loaders)[-1] == 1


# Reading ahead


def calls_of(items):
    return ((lambda item=item: item) for item in items)


def ahead(items, depth=2, threads=1):
    return read_ahead(calls_of(items), depth=depth, threads=threads)


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_reading_ahead_changes_neither_items_nor_their_order(depth, threads):
    assert list(ahead(range(50), depth, threads)) == list(range(50))
    assert list(ahead([], depth, threads)) == []


def test_items_come_in_order_even_where_they_are_ready_in_another():
    first_may_end = threading.Event()

    def slow():
        assert first_may_end.wait(20)
        return "first"

    def quick():
        first_may_end.set()
        return "second"

    assert list(read_ahead(iter([slow, quick]), depth=2, threads=2)) == ["first", "second"]


def test_items_are_made_ahead_of_their_use_but_only_so_many():
    made = []
    items = read_ahead(((lambda i=i: made.append(i) or i) for i in range(50)), depth=3, threads=2)
    assert next(items) == 0
    deadline = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < deadline:  # one in use, three ahead
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(made) == [0, 1, 2, 3]
    items.close()


def test_nothing_is_made_before_it_is_asked_for():
    made = []
    read_ahead(((lambda i=i: made.append(i)) for i in range(5)), depth=2, threads=2)
    assert (made, read_ahead_threads()) == ([], 0)


@pytest.mark.parametrize("taken", [1, 5])
def test_the_threads_end_when_the_consumer_stops_early(taken):
    items = ahead(range(10**9), threads=2)
    for _ in range(taken):
        next(items)
    items.close()
    assert read_ahead_threads() == 0


def test_closing_waits_for_what_is_running_and_starts_nothing_more():
    started, gate = [], threading.Event()

    def call(i):
        started.append(i)
        assert i == 0 or gate.wait(20)
        return i

    items = read_ahead(((lambda i=i: call(i)) for i in range(50)), depth=10, threads=2)
    assert next(items) == 0
    threading.Timer(0.05, gate.set).start()
    items.close()
    assert read_ahead_threads() == 0
    assert len(started) <= 3


def test_the_threads_end_when_the_consumer_fails():
    with pytest.raises(ZeroDivisionError):
        _ = [1 / (item - 3) for item in ahead(range(10**9), threads=2)]
    wait_for_no_threads()


def test_the_threads_end_when_the_consumer_forgets_the_iterator():
    items = ahead(range(10**9), threads=2)
    next(items)
    del items
    wait_for_no_threads()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_is_raised_at_the_place_of_its_item_and_ends_the_threads(threads):
    def failing():
        raise ValueError("the sixth")

    seen = []
    calls = [*calls_of(range(5)), failing, *calls_of(range(6, 50))]
    with pytest.raises(ValueError, match="the sixth"):
        seen.extend(read_ahead(iter(calls), depth=4, threads=threads))
    assert seen == [0, 1, 2, 3, 4]
    assert read_ahead_threads() == 0
