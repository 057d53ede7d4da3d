import pytest
import torch

from dlrm.counter_rng import stream_key
from dlrm.data.order import SampleOrder, permuted


def epoch_of(order, epoch=0, world_size=1):
    """All indices of an epoch: each batch put together from its ranks' parts."""
    parts = [
        order.indices(epoch, batch, rank, world_size)
        for batch in range(order.num_batches)
        for rank in range(world_size)
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


@pytest.mark.parametrize("size", [*range(1, 201), 255, 256, 257, 1000, 1023, 1024, 1025, 4097])
def test_an_epoch_is_a_permutation(size):
    for epoch in range(2):
        order = SampleOrder(size, global_batch_size=64, seed=3, shuffle=True)
        assert epoch_of(order, epoch).sort().values.tolist() == list(range(size))


def test_every_permutation_of_a_few_samples_occurs_equally_often():
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        found = tuple(permuted(torch.arange(4), 4, stream_key(seed)).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 24
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 55  # 23 degrees of freedom


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed):
        return SampleOrder(1000, global_batch_size=100, seed=seed, shuffle=True)

    epochs = [epoch_of(order(seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for i, one in enumerate(epochs):
        for other in epochs[:i]:
            assert (one == other).sum() < 10  # one on average
    assert torch.equal(epoch_of(order(1), 2), epochs[-1])


def test_without_shuffling_every_epoch_is_as_stored():
    order = SampleOrder(23, global_batch_size=5)
    assert torch.equal(epoch_of(order, 0), torch.arange(23))
    assert torch.equal(epoch_of(order, 7, world_size=3), torch.arange(23))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("size", "batch_size"), [(1000, 128), (1000, 100), (7, 128), (3, 1), (129, 128), (1, 1), (40, 5)]
)
def test_the_parts_of_all_ranks_are_the_global_batch_whatever_their_number(size, batch_size, world_size, shuffle):
    order = SampleOrder(size, global_batch_size=batch_size, seed=1, shuffle=shuffle)
    for batch in range(order.num_batches):
        parts = [order.indices(2, batch, rank, world_size) for rank in range(world_size)]
        whole = order.indices(2, batch)
        assert torch.equal(torch.cat(parts), whole)
        assert len(whole) == order.samples_in(batch)
        share = order.rank_size(batch, world_size)
        assert all(len(part) == share for part in parts[: len(whole) // share])
        assert max(len(part) for part in parts) == share


def test_sample_i_of_a_batch_is_place_i_modulo_share_of_rank_i_over_share():
    order = SampleOrder(1000, global_batch_size=10, seed=1, shuffle=True)
    whole, share = order.indices(0, 3), order.rank_size(3, 4)
    assert share == 3
    for i, index in enumerate(whole.tolist()):
        assert order.indices(0, 3, i // share, 4)[i % share].item() == index


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_fewer_samples_than_ranks_leave_some_ranks_without(world_size):
    order = SampleOrder(1, global_batch_size=64, seed=1, shuffle=True)
    assert [len(order.indices(0, 0, rank, world_size)) for rank in range(world_size)] == [1] + [0] * (world_size - 1)
    assert order.rank_size(0, world_size) == 1


def test_the_tail_is_a_batch_of_its_own_or_dropped_as_asked():
    kept = SampleOrder(103, global_batch_size=20, seed=1, shuffle=True)
    dropped = SampleOrder(103, global_batch_size=20, seed=1, shuffle=True, drop_last=True)
    assert (kept.num_batches, dropped.num_batches) == (6, 5)
    assert [kept.samples_in(batch) for batch in range(6)] == [20] * 5 + [3]
    assert torch.equal(epoch_of(kept)[:100], epoch_of(dropped))
    assert SampleOrder(100, global_batch_size=20, drop_last=True).num_batches == 5
    assert SampleOrder(19, global_batch_size=20, drop_last=True).num_batches == 0
    assert SampleOrder(0, global_batch_size=20).num_batches == 0


def test_a_global_batch_depends_on_its_number_and_not_on_what_was_asked_before():
    order = SampleOrder(5000, global_batch_size=64, seed=9, shuffle=True)
    again = SampleOrder(5000, global_batch_size=64, seed=9, shuffle=True)
    forwards = [order.indices(1, batch) for batch in range(order.num_batches)]
    backwards = [again.indices(1, batch) for batch in reversed(range(order.num_batches))]
    assert all(torch.equal(one, other) for one, other in zip(forwards, reversed(backwards), strict=True))


# The permutation as a source of chance


def chi_square(counts, expected):
    return ((counts.double() - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("epoch", range(3))
def test_the_samples_of_a_batch_come_from_everywhere(epoch):
    size = 100_000
    order = SampleOrder(size, global_batch_size=10_000, seed=4, shuffle=True)
    for batch in (0, 5, 9):
        counts = torch.bincount(order.indices(epoch, batch) // 1000, minlength=100)
        assert 55 < chi_square(counts, 100) / 0.9 < 160  # 99 degrees of freedom, drawn without replacement


@pytest.mark.parametrize("size", [100_000, 2**16, 2**16 + 1, 4**8 - 1])
def test_a_permutation_shows_no_structure(size):
    position = torch.arange(size)
    found = permuted(position, size, stream_key(0, "order", 0))
    x = position.double() / size
    expected = ((x**2 + (1 - x) ** 2) / 2).mean().item()  # mean distance of a uniform place from x
    assert (found.double() / size - x).abs().mean().item() == pytest.approx(expected, rel=0.01)
    pairs = torch.stack([found[:-1].double(), found[1:].double(), position[1:].double()])
    assert (torch.corrcoef(pairs) - torch.eye(3)).abs().max() < 5 / size**0.5
    for modulus in (2, 3, 16, 64):  # the low bits of a sample say nothing about its place
        joint = torch.bincount(found % modulus * modulus + position % modulus, minlength=modulus**2)
        degrees = (modulus - 1) ** 2
        assert chi_square(joint, size / modulus**2) < degrees + 5 * (2 * degrees) ** 0.5


def test_fixed_points_are_as_rare_as_in_random_permutations():
    position = torch.arange(1000)
    fixed = [(permuted(position, 1000, stream_key(seed)) == position).sum().item() for seed in range(400)]
    assert sum(fixed) / 400 == pytest.approx(1.0, abs=0.25)  # one on average, standard deviation 1


@pytest.mark.parametrize("size", [2**31 + 1, 4_195_197_692, 2**33 + 12_345, 2**50, 2**62])
def test_a_batch_of_billions_of_samples_is_found_without_storing_a_permutation(size):
    order = SampleOrder(size, global_batch_size=4096, seed=1, shuffle=True)
    for batch in (0, order.num_batches // 2, order.num_batches - 1):
        index = order.indices(1, batch)
        assert index.dtype == torch.int64
        assert len(index) == order.samples_in(batch)
        assert len(index.unique()) == len(index)
        assert index.min() >= 0
        assert index.max() < size
    assert order.indices(0, 0).double().mean().item() == pytest.approx(size / 2, rel=0.05)
