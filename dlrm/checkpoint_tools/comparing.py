"""``checkpoint diff``: how two checkpoints differ, element by element, in bounded memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dlrm.checkpoint.rectangles import intersection
from dlrm.checkpoint.stored import Checkpoint, StoredPiece

_KEPT_BYTES = 512 << 20
"""Of the second checkpoint's pieces: those of the two may be cut differently, so that one is needed several times."""
_CHUNK_ELEMENTS = 1 << 22
_SAME_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ABSENT = object()

Progress = Callable[[int], None]
"""Told the number of bytes of the first checkpoint that were compared."""


@dataclass(frozen=True)
class Change:
    """A tensor whose values differ.

    Attributes:
        elements: there are; differing: whose bits differ; largest: absolute difference, NaN if one of the two is.
    """

    name: str
    elements: int
    differing: int
    largest: float


@dataclass(frozen=True)
class Comparison:
    """How the tensors of two checkpoints differ.

    Attributes:
        only_first, only_second: names; reshaped: those of another shape or type, in words.
        changed: those whose values differ; equal: number of those that are equal to the bit.
    """

    only_first: list[str]
    only_second: list[str]
    reshaped: list[str]
    changed: list[Change]
    equal: int


def compare(first: Checkpoint, second: Checkpoint, progress: Progress) -> Comparison:
    """Compare all tensors. Pieces cut alike with equal checksums are equal and not read.

    Raises:
        CheckpointError: a piece is damaged or cannot be read.
    """
    reshaped, changed, equal = [], [], 0
    pieces = _Pieces(second)
    for name, tensor in first.tensors.items():
        other = second.tensors.get(name)
        if other is None:
            continue
        if (tensor.shape, tensor.dtype) != (other.shape, other.dtype):
            reshaped.append(f"{name}: {_kind(tensor.shape, tensor.dtype)}, {_kind(other.shape, other.dtype)}")
            continue
        change = _compare_tensor(first, pieces, name, progress)
        if change.differing:
            changed.append(change)
        else:
            equal += 1
    only_first = [name for name in first.tensors if name not in second.tensors]
    only_second = [name for name in second.tensors if name not in first.tensors]
    return Comparison(only_first, only_second, reshaped, changed, equal)


def _kind(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype} {list(shape)}"


class _Pieces:
    """A checkpoint's pieces as tensors; the last ones that were needed are kept."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._kept: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()
        self._bytes = 0

    def values(self, stored: StoredPiece) -> torch.Tensor:
        """The verified values of a piece, in its shape."""
        key = stored.file.name, stored.piece.range[0]
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        values = self._kept[key] = _values(self.checkpoint, stored)
        self._bytes += values.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return values


def _values(checkpoint: Checkpoint, stored: StoredPiece) -> torch.Tensor:
    dtype = checkpoint.dtypes[stored.piece.tensor]
    return torch.frombuffer(checkpoint.read(stored), dtype=dtype).view(stored.piece.shape)


def _compare_tensor(first: Checkpoint, second: _Pieces, name: str, progress: Progress) -> Change:
    differing, largest = 0, 0.0
    others = second.checkpoint.pieces.get(name, [])
    equal = {(stored.piece.rectangle, stored.piece.checksum) for stored in others}
    for stored in sorted(first.pieces.get(name, []), key=lambda stored: stored.piece.offsets):
        if (stored.piece.rectangle, stored.piece.checksum) not in equal:
            values = _values(first, stored)
            for other in others:
                overlap = intersection(stored.piece.rectangle, other.piece.rectangle)
                if overlap is None:
                    continue
                one = values[overlap.slices_from(stored.piece.offsets)]
                two = second.values(other)[overlap.slices_from(other.piece.offsets)]
                number, distance = _distance(one, two)
                differing += number
                largest = math.nan if math.isnan(distance) or math.isnan(largest) else max(largest, distance)
        progress(stored.piece.range[1] - stored.piece.range[0])
    return Change(name, math.prod(first.tensors[name].shape), differing, largest)


def _distance(one: torch.Tensor, two: torch.Tensor) -> tuple[int, float]:
    """The number of elements whose bits differ, and the largest absolute difference of their values."""
    differing, largest = 0, 0.0
    bits = _SAME_WIDTH[one.element_size()]
    rows = max(1, _CHUNK_ELEMENTS // max(1, math.prod(one.shape[1:])))
    for a, b in zip(torch.atleast_1d(one).split(rows), torch.atleast_1d(two).split(rows), strict=True):
        where = a.view(bits) != b.view(bits)
        if number := int(where.sum()):
            differing += number
            distance = (a[where].double() - b[where].double()).abs().max().item()
            largest = math.nan if math.isnan(distance) or math.isnan(largest) else max(largest, distance)
    return differing, largest


def config_differences(first: Checkpoint, second: Checkpoint) -> Iterator[tuple[str, str, str]]:
    """Each option of the configurations that differs: its dotted path and both values as text."""
    one, two = _flat(first.facts.get("config")), _flat(second.facts.get("config"))
    for path in {**one, **two}:
        value, other = one.get(path, _ABSENT), two.get(path, _ABSENT)
        if value != other:
            yield path, _shown(value), _shown(other)


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else str(value)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted paths; anything else is a value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
