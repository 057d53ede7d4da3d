import pytest
import torch

from dlrm.data.order import SampleOrder, ShuffledInBlocks

STORED = {"shuffle": False}
SHUFFLED = {"shuffle": True}
IN_BLOCKS = {"shuffle": True, "block_samples": 8, "window_blocks": 3}
ARRANGEMENTS = pytest.mark.parametrize("kind", [STORED, SHUFFLED, IN_BLOCKS], ids=["stored", "shuffled", "in-blocks"])


def epoch_of(order, epoch=0, world_size=1):
    """All indices of an epoch: each batch put together from its ranks' parts."""
    parts = [
        order.indices(epoch, batch, rank, world_size)
        for batch in range(order.num_batches)
        for rank in range(world_size)
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


@ARRANGEMENTS
@pytest.mark.parametrize("size", [*range(1, 201), 255, 256, 257, 1000, 1023, 1024, 1025, 4097])
def test_an_epoch_is_a_permutation(size, kind):
    for epoch in range(2):
        order = SampleOrder(size, global_batch_size=64, seed=3, **kind)
        assert epoch_of(order, epoch).sort().values.tolist() == list(range(size))


@pytest.mark.parametrize("kind", [SHUFFLED, IN_BLOCKS], ids=["shuffled", "in-blocks"])
def test_epochs_and_seeds_differ_and_repeat(kind):
    def order(seed):
        return SampleOrder(1000, global_batch_size=100, seed=seed, **kind)

    epochs = [epoch_of(order(seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for i, one in enumerate(epochs):
        for other in epochs[:i]:
            assert (one == other).sum() < 10  # one on average
    assert torch.equal(epoch_of(order(1), 2), epochs[-1])


def test_without_shuffling_every_epoch_is_as_stored():
    order = SampleOrder(23, global_batch_size=5)
    assert torch.equal(epoch_of(order, 0), torch.arange(23))
    assert torch.equal(epoch_of(order, 7, world_size=3), torch.arange(23))


@ARRANGEMENTS
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("size", "batch_size"), [(1000, 128), (1000, 100), (7, 128), (3, 1), (129, 128), (1, 1), (40, 5)]
)
def test_the_parts_of_all_ranks_are_the_global_batch_whatever_their_number(size, batch_size, world_size, kind):
    order = SampleOrder(size, global_batch_size=batch_size, seed=1, **kind)
    for batch in range(order.num_batches):
        parts = [order.indices(2, batch, rank, world_size) for rank in range(world_size)]
        whole = order.indices(2, batch)
        assert torch.equal(torch.cat(parts), whole)
        assert len(whole) == order.samples_in(batch)
        share = order.rank_size(batch, world_size)
        assert all(len(part) == share for part in parts[: len(whole) // share])
        assert max(len(part) for part in parts) == share


@ARRANGEMENTS
def test_sample_i_of_a_batch_is_place_i_modulo_share_of_rank_i_over_share(kind):
    order = SampleOrder(1000, global_batch_size=10, seed=1, **kind)
    whole, share = order.indices(0, 3), order.rank_size(3, 4)
    assert share == 3
    for i, index in enumerate(whole.tolist()):
        assert order.indices(0, 3, i // share, 4)[i % share].item() == index


@ARRANGEMENTS
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_fewer_samples_than_ranks_leave_some_ranks_without(world_size, kind):
    order = SampleOrder(1, global_batch_size=64, seed=1, **kind)
    assert [len(order.indices(0, 0, rank, world_size)) for rank in range(world_size)] == [1] + [0] * (world_size - 1)
    assert order.rank_size(0, world_size) == 1


@ARRANGEMENTS
def test_the_tail_is_a_batch_of_its_own_or_dropped_as_asked(kind):
    kept = SampleOrder(103, global_batch_size=20, seed=1, **kind)
    dropped = SampleOrder(103, global_batch_size=20, seed=1, drop_last=True, **kind)
    assert (kept.num_batches, dropped.num_batches) == (6, 5)
    assert [kept.samples_in(batch) for batch in range(6)] == [20] * 5 + [3]
    assert torch.equal(epoch_of(kept)[:100], epoch_of(dropped))
    assert SampleOrder(100, global_batch_size=20, drop_last=True, **kind).num_batches == 5
    assert SampleOrder(19, global_batch_size=20, drop_last=True, **kind).num_batches == 0
    assert SampleOrder(0, global_batch_size=20, **kind).num_batches == 0


@ARRANGEMENTS
def test_a_global_batch_depends_on_its_number_and_not_on_what_was_asked_before(kind):
    order = SampleOrder(5000, global_batch_size=64, seed=9, **kind)
    again = SampleOrder(5000, global_batch_size=64, seed=9, **kind)
    forwards = [order.indices(1, batch) for batch in range(order.num_batches)]
    backwards = [again.indices(1, batch) for batch in reversed(range(order.num_batches))]
    assert all(torch.equal(one, other) for one, other in zip(forwards, reversed(backwards), strict=True))


@ARRANGEMENTS
def test_the_sequence_of_samples_does_not_depend_on_the_batch_size(kind):
    epochs = [epoch_of(SampleOrder(500, global_batch_size=size, seed=2, **kind), 1) for size in (1, 7, 64, 500)]
    assert all(torch.equal(epoch, epochs[0]) for epoch in epochs)


# Chance


def chi_square(counts, expected):
    return ((counts.double() - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("epoch", range(3))
def test_the_samples_of_a_batch_come_from_everywhere(epoch):
    size = 100_000
    order = SampleOrder(size, global_batch_size=10_000, seed=4, shuffle=True)
    for batch in (0, 5, 9):
        counts = torch.bincount(order.indices(epoch, batch) // 1000, minlength=100)
        assert 55 < chi_square(counts, 100) / 0.9 < 160  # 99 degrees of freedom, drawn without replacement


@pytest.mark.parametrize("kind", [SHUFFLED, {"shuffle": True, "block_samples": 4096, "window_blocks": 64}])
@pytest.mark.parametrize("size", [2**31 + 1, 4_195_197_692, 2**33 + 12_345, 2**50, 2**62])
def test_a_batch_of_billions_of_samples_is_found_without_storing_a_permutation(size, kind):
    order = SampleOrder(size, global_batch_size=4096, seed=1, **kind)
    for batch in (0, order.num_batches // 2, order.num_batches - 1):
        index = order.indices(1, batch)
        assert index.dtype == torch.int64
        assert len(index) == order.samples_in(batch)
        assert len(index.unique()) == len(index)
        assert index.min() >= 0
        assert index.max() < size
    if kind is SHUFFLED:
        assert order.indices(0, 0).double().mean().item() == pytest.approx(size / 2, rel=0.05)


# Blocks


@pytest.mark.parametrize("size", [1, 2, 5, 63, 64, 65, 640, 1000, 1023])
@pytest.mark.parametrize("block_samples", [1, 3, 7, 64, 2000])
@pytest.mark.parametrize("window_blocks", [1, 2, 5, 64, 5000])
def test_every_sample_occurs_once_and_each_place_is_found_by_itself(size, block_samples, window_blocks):
    sampler = ShuffledInBlocks(size, 3, block_samples, window_blocks)
    whole = sampler.indices(1, 0, size)
    assert whole.sort().values.tolist() == list(range(size))
    starts = range(0, size, 17)
    assert torch.equal(torch.cat([sampler.indices(1, s, min(s + 17, size)) for s in starts]), whole)
    assert sampler.indices(1, size // 2, size // 2).tolist() == []


def runs_of(index, size):
    """Lengths of the runs of neighbours (on the ring of all samples) that a set of samples consists of."""
    kept = torch.zeros(size, dtype=torch.bool)
    kept[index] = True
    starts = kept & ~kept.roll(1)
    first = int(starts.int().argmax())
    lengths, current = [], 0
    for here in kept.roll(-first).tolist():
        if here:
            current += 1
        elif current:
            lengths.append(current)
            current = 0
    return [*lengths, current] if current else lengths


def test_a_window_reads_nothing_but_its_blocks_and_the_last_one_what_remains():
    size, block = 10_037, 100  # 100 blocks and 37 samples
    sampler = ShuffledInBlocks(size, 5, block, 10)
    for epoch in range(3):
        for window in range(10):
            first = window * 1000
            index = sampler.indices(epoch, first, first + 1000 if window < 9 else size)
            lengths = runs_of(index, size)
            assert len(lengths) <= 11
            remainder = sum(lengths) % block  # neighbouring blocks make longer runs
            assert remainder == (37 if window == 9 else 0)
            assert sum(length % block > 0 for length in lengths) == (1 if window == 9 else 0)


def test_every_batch_mixes_all_blocks_of_its_window_evenly():
    block, blocks, batch = 1000, 50, 5000
    size = block * blocks * 4
    sampler = ShuffledInBlocks(size, 4, block, blocks)
    for epoch in range(2):
        ring = sampler.indices(epoch, 0, size)
        in_window = ring[: block * blocks].sort().values
        for k in range(10):
            ranks = torch.searchsorted(in_window, ring[k * batch : (k + 1) * batch])
            counts = torch.bincount(ranks // block, minlength=blocks)  # 100 of each block, up to chance
            assert 20 < chi_square(counts, 100) / 0.9 < 95  # 49 degrees of freedom, without replacement


def test_the_blocks_of_a_window_come_from_everywhere():
    size, block = 640_000, 100
    sampler = ShuffledInBlocks(size, 11, block, 64)
    first_window = sampler.indices(0, 0, 6400)
    counts = torch.bincount(first_window // (size // 8), minlength=8).double() / block  # 8 blocks of each eighth
    assert chi_square(counts, 8.0) < 24.3  # 7 degrees of freedom, 1 in 1000
    means = [sampler.indices(epoch, 0, 6400).double().mean().item() / size for epoch in range(40)]
    assert sum(means) / 40 == pytest.approx(0.5, abs=5 * (1 / 12 / 64 / 40) ** 0.5)


def test_blocks_are_cut_elsewhere_in_each_epoch():
    size, block = 1050, 100
    sampler = ShuffledInBlocks(size, 0, block, 1)
    remainders = set()
    for epoch in range(200):
        tail = sampler.indices(epoch, 900, size)  # the last block and what remains
        lengths = [length for length in runs_of(tail, size) if length % block]
        assert sum(lengths) in (50, 150)  # 150 where they are neighbours
        remainders.add(int(tail.min()))
    assert len(remainders) > 100


def test_blocks_larger_than_the_data_are_a_shuffle_of_all_samples():
    sampler = ShuffledInBlocks(10_000, 4, 2**40, 64)
    index = sampler.indices(0, 0, 10_000)
    pairs = torch.stack([index[:-1].double(), index[1:].double(), torch.arange(1, 10_000).double()])
    assert (torch.corrcoef(pairs) - torch.eye(3)).abs().max() < 0.05
