import random

import numpy as np
import pytest

from dlrm.checkpoint.slices import Slice, cut, fault_in_cover, intersection
from tests.unit.checkpoint.states import random_slices

SHAPES = [(), (1,), (7,), (5, 6), (1, 9), (3, 4, 5)]


def coverage(shape, slices):
    """How often each element is covered, counted one by one."""
    counts = np.zeros(shape, int)
    for slice_ in slices:
        counts[slice_.index_from()] += 1
    return counts


@pytest.mark.parametrize("shape", [*SHAPES, (0, 3), (4, 0)])
@pytest.mark.parametrize("max_size", [1, 2, 4, 7, 1000])
def test_a_cut_tensor_is_covered_by_small_slices(shape, max_size):
    parts = list(cut(shape, max_size))
    assert (coverage(shape, parts) == 1).all()
    assert all(0 < part.size <= max_size for part in parts)
    assert fault_in_cover(shape, parts) == ""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(20))
def test_a_fault_in_a_cover_is_found_exactly_where_counting_finds_one(shape, seed):
    rng = random.Random(seed)
    parts = random_slices(rng, shape, 6)
    change = rng.choice(["none", "drop", "repeat", "swap", "move", "grow"])
    victim = rng.randrange(len(parts))
    offsets, size = parts[victim]
    if change == "drop":
        del parts[victim]
    elif change == "repeat":
        parts.append(parts[victim])
    elif change == "swap":  # as many elements as before, one slice twice in place of another
        parts[victim] = parts[0]
    elif change == "move":
        parts[victim] = Slice(tuple(rng.randrange(n - s + 1) for n, s in zip(shape, size, strict=True)), size)
    elif change == "grow":
        parts[victim] = Slice(offsets, tuple(n - o for n, o in zip(shape, offsets, strict=True)))
    assert (fault_in_cover(shape, parts) == "") == bool((coverage(shape, parts) == 1).all())


def test_an_overlap_that_hides_a_hole_of_the_same_size_is_found():
    assert "overlap" in fault_in_cover((4,), [Slice((0,), (3,)), Slice((0,), (1,))])
    assert "1 of its 4" in fault_in_cover((4,), [Slice((0,), (3,))])


@pytest.mark.parametrize("seed", range(20))
def test_an_intersection_holds_the_elements_that_are_in_both(seed):
    rng = random.Random(seed)
    one, other = (rng.choice(random_slices(rng, (6, 7), 3)) for _ in range(2))
    expected = (coverage((6, 7), [one]) > 0) & (coverage((6, 7), [other]) > 0)
    found = intersection(one, other)
    assert (coverage((6, 7), [found] if found else []) == expected).all()
