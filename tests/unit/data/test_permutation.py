import pytest
import torch

from dlrm.counter_rng import random_bits, stream_key
from dlrm.data.permutation import permuted


def reference(position, size, key):
    """The definition, with whole tensors: six Feistel rounds, repeated for what falls outside."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1

    def network(value):
        left, right = value >> half_bits, value & mask
        for round_number in range(6):
            left, right = right, left ^ (random_bits(key, right * 6 + round_number) & mask)
        return (left << half_bits) | right

    result = network(position)
    while (outside := result >= size).any():
        result[outside] = network(result[outside])
    return result


@pytest.mark.parametrize("size", [1, 2, 5, 1000, 4**10, 4**10 + 1, 4_195_197_692, 2**62])
@pytest.mark.parametrize("key", [0, 12_345, stream_key(1), stream_key(2), -1])
def test_it_is_the_cycle_walking_feistel_network_of_its_definition(size, key):
    generator = torch.Generator().manual_seed(size % 1000)
    position = torch.randint(0, size, (500,), generator=generator)
    assert torch.equal(permuted(position, size, key), reference(position, size, key))


def test_it_leaves_its_argument_alone():
    position = torch.arange(100)
    permuted(position, 100, 7)
    assert torch.equal(position, torch.arange(100))
    assert permuted(torch.arange(0), 100, 7).shape == (0,)


@pytest.mark.parametrize("size", [*range(1, 201), 255, 256, 257, 1000, 1023, 1024, 1025, 4097])
def test_it_is_a_permutation(size):
    assert permuted(torch.arange(size), size, stream_key(size)).sort().values.tolist() == list(range(size))


def test_every_permutation_of_a_few_samples_occurs_equally_often():
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        found = tuple(permuted(torch.arange(4), 4, stream_key(seed)).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 24
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 55  # 23 degrees of freedom


def chi_square(counts, expected):
    return ((counts.double() - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("size", [100_000, 2**16, 2**16 + 1, 4**8 - 1])
def test_it_shows_no_structure(size):
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
