"""Rectangles of tensors in any number of dimensions: cutting them up, intersecting them, and whether they make a whole."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple


class Slice(NamedTuple):
    """The elements ``offsets[d] .. offsets[d] + shape[d] - 1`` in every dimension d."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements; 1 without dimensions."""
        return prod(self.shape)

    def within(self, shape: tuple[int, ...]) -> bool:
        """Whether it lies inside of a tensor of ``shape``."""
        return len(self.offsets) == len(self.shape) == len(shape) and all(
            start >= 0 and size >= 0 and start + size <= whole
            for start, size, whole in zip(self.offsets, self.shape, shape, strict=True)
        )

    def index_from(self, origin: tuple[int, ...] | None = None) -> tuple[slice, ...]:
        """What to index a tensor with whose first element is at ``origin``, or is the first of the whole."""
        origin = origin if origin is not None else (0,) * len(self.offsets)
        return tuple(
            slice(start - zero, start - zero + size)
            for start, size, zero in zip(self.offsets, self.shape, origin, strict=True)
        )


def whole(shape: tuple[int, ...]) -> Slice:
    """All of a tensor."""
    return Slice((0,) * len(shape), shape)


def cut(shape: tuple[int, ...], max_size: int) -> Iterator[Slice]:
    """Cut a tensor into slices of at most ``max_size`` elements, as many rows together as fit; nothing if it is empty.

    A row that is larger than ``max_size`` is cut in turn.
    """
    if 0 in shape:
        return
    if prod(shape) <= max_size:
        yield whole(shape)
        return
    row_shape = shape[1:]
    rows = max_size // prod(row_shape)
    if rows:
        for first in range(0, shape[0], rows):
            yield Slice((first, *(0 for _ in row_shape)), (min(rows, shape[0] - first), *row_shape))
        return
    for row in range(shape[0]):
        for part in cut(row_shape, max_size):
            yield Slice((row, *part.offsets), (1, *part.shape))


def intersection(one: Slice, other: Slice) -> Slice | None:
    """The elements in both, None where there are none."""
    starts = tuple(map(max, one.offsets, other.offsets))
    stops = tuple(
        min(a + n, b + m) for a, n, b, m in zip(one.offsets, one.shape, other.offsets, other.shape, strict=True)
    )
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return None
    return Slice(starts, tuple(stop - start for start, stop in zip(starts, stops, strict=True)))


def fault_in_cover(shape: tuple[int, ...], slices: Iterable[Slice]) -> str:
    """What keeps ``slices``, none of them empty, from covering each element of a tensor exactly once; empty: nothing.

    Time is linear in their number. How often an element is covered is the running sum, in every dimension, of what
    stands at the corners of the slices: +1 at the first corner, the sign changing with each dimension in which a
    corner is at the end. Since running sums can be undone, the slices cover what one slice of the whole covers
    if and only if their corners add up to its corners.
    """
    found: Counter[tuple[int, ...]] = Counter()
    covered = 0
    for slice_ in slices:
        _add_corners(found, slice_, 1)
        covered += slice_.size
    if 0 not in shape:
        _add_corners(found, whole(shape), -1)
    if not any(found.values()):
        return ""
    if covered < prod(shape):
        return f"{prod(shape) - covered} of its {prod(shape)} elements are missing"
    return "slices overlap"


def _add_corners(corners: Counter[tuple[int, ...]], slice_: Slice, weight: int) -> None:
    ends = [((start, 1), (start + size, -1)) for start, size in zip(slice_.offsets, slice_.shape, strict=True)]
    for corner in itertools.product(*ends):
        corners[tuple(place for place, _ in corner)] += weight * prod(sign for _, sign in corner)
