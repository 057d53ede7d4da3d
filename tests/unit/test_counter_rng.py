import numpy as np
import pytest
import torch

from dlrm.compiled import compiled
from dlrm.counter_rng import integers, mix64, random_bits, stream_key, uniform, uniform64

KEY = stream_key(0, "test")


def splitmix64(seed: int, counter: int) -> int:
    """The counter-th output of SplitMix64 (counted from 1) as an unsigned integer, in Python's integers."""
    mask = (1 << 64) - 1
    z = (seed + counter * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_bits_are_those_of_splitmix64():
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    bits = random_bits(1234567, torch.arange(1, 6))
    assert [value % 2**64 for value in bits.tolist()] == published


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), KEY])
def test_the_bits_are_those_of_exact_arithmetic_for_any_key_and_counter(key):
    counters = [0, 1, 2, 12345, 2**31, 2**40 + 7, 2**62, 2**63 - 1, -1, -(2**63)]
    bits = random_bits(key, torch.tensor(counters))
    assert [value % 2**64 for value in bits.tolist()] == [splitmix64(key, counter) for counter in counters]


def test_a_number_depends_on_its_counter_alone_and_not_on_shape_or_neighbours():
    counters = torch.arange(60)
    bits = random_bits(KEY, counters)
    assert torch.equal(random_bits(KEY, counters.view(3, 4, 5).transpose(0, 2)), bits.view(3, 4, 5).transpose(0, 2))
    assert torch.equal(random_bits(KEY, counters.flip(0)[::7]), bits.flip(0)[::7])
    assert random_bits(KEY, torch.tensor(17)).item() == bits[17].item()
    assert random_bits(KEY, torch.empty(0, dtype=torch.int64)).shape == (0,)
    assert torch.equal(counters, torch.arange(60))  # the argument is left alone


def test_keys_are_told_apart_by_seed_and_by_every_name():
    keys = [
        stream_key(0),
        stream_key(1),
        stream_key(0, "a"),
        stream_key(0, "b"),
        stream_key(0, "a", "b"),
        stream_key(0, "b", "a"),
        stream_key(0, "ab"),
        stream_key(0, "a", 1),
        stream_key(0, "a", 2),
        stream_key(0, "a1"),
        stream_key(2**80, "a"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert stream_key(3, "a", 7) == stream_key(3, "a", 7)


@pytest.mark.parametrize(("draw", "bits", "dtype"), [(uniform, 24, torch.float32), (uniform64, 53, torch.float64)])
def test_uniform_numbers_are_the_top_bits_of_the_stream_below_1(draw, bits, dtype):
    counters = torch.arange(1000)
    values = draw(KEY, counters)
    assert values.dtype == dtype
    exact = [(value % 2**64) >> (64 - bits) for value in random_bits(KEY, counters).tolist()]
    assert values.double().tolist() == [value * 2.0**-bits for value in exact]


def test_uniform_numbers_are_uniform_and_independent():
    n = 200_000
    values = uniform64(KEY, torch.arange(n))
    other = uniform64(stream_key(0, "other"), torch.arange(n))
    counts = torch.histc(values, bins=100, min=0, max=1)
    chi_square = ((counts - n / 100) ** 2 / (n / 100)).sum().item()
    assert 60 < chi_square < 150  # 99 degrees of freedom
    assert values.mean().item() == pytest.approx(0.5, abs=4 / np.sqrt(12 * n))
    pairs = torch.stack([values[:-1], values[1:], other[1:]])
    assert (torch.corrcoef(pairs) - torch.eye(3)).abs().max() < 4.5 / np.sqrt(n)


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 1000, 2**31 + 2, 2**62])
def test_integers_are_below_their_bound_and_evenly_spread(bound):
    values = integers(KEY, torch.arange(100_000), bound)
    assert values.dtype == torch.int64
    assert values.min() >= 0
    assert values.max() < bound
    parts = min(bound, 10)
    counts = torch.bincount(values // -(-bound // parts), minlength=parts).double()
    assert ((counts - 100_000 / parts) ** 2 / (100_000 / parts)).sum() < 35  # at most 9 degrees of freedom


@compiled
def mixed(key, counters, bits):
    for i in range(len(counters)):
        bits[i] = mix64(key, counters[i])


@pytest.mark.parametrize("key", [0, -1, KEY])
def test_compiled_loops_mix_as_torch_does(key):
    counters = torch.tensor([0, 1, 2**31, 2**63 - 1, -1, -(2**63)])
    bits = np.empty(len(counters), np.uint64)
    mixed(np.uint64(key % 2**64), counters.numpy().view(np.uint64), bits)
    assert bits.view(np.int64).tolist() == random_bits(key, counters).tolist()
