"""``checkpoint diff``: how two checkpoints differ, element by element, in bounded memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dlrm.checkpoint.increments import Chain
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.manifest import DTYPES, TensorRecord
from dlrm.checkpoint.rectangles import intersection
from dlrm.checkpoint.stored import Checkpoint, StoredPiece
from dlrm.checkpoint.tensors import Block, LogicalTensor
from dlrm.config.describe import flatten

_KEPT_BYTES = 512 << 20
"""Of the second checkpoint's pieces: those of the two may be cut differently, so that one is needed several times."""
_PORTION_BYTES = 256 << 20
"""Of each restored state at a time; the pieces that these rows are in are read besides."""
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

    def and_more(self, differing: int, largest: float) -> Change:
        """With what another part of it has come to."""
        return replace(self, differing=self.differing + differing, largest=_larger(self.largest, largest))


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
    """Compare all tensors of full checkpoints. Pieces cut alike with equal checksums are equal and not read.

    Raises:
        CheckpointError: a piece is damaged or cannot be read.
    """
    pieces = _Pieces(second)
    names = [name for name, record in first.tensors.items() if second.tensors.get(name) == record]
    changes = [_compare_tensor(first, pieces, name, progress) for name in names]
    return _comparison(first.tensors, second.tensors, changes)


def compare_states(first: Chain, second: Chain, progress: Progress) -> Comparison:
    """Compare the states that two checkpoints restore with what they stand on, some rows of each tensor at a time.

    Raises:
        CheckpointError: a piece is damaged or cannot be read.
    """
    one, two = first.tensors, second.tensors
    found = {name: Change(name, math.prod(one[name].shape), 0, 0.0) for name in one if two.get(name) == one[name]}
    for rows in _portions([one[name] for name in found]):
        state, other = _restored(first, rows), _restored(second, rows)
        for name in rows:
            found[name] = found[name].and_more(*_distance(state[name], other[name]))
            progress(state[name].nbytes)
    return _comparison(one, two, list(found.values()))


def state_bytes(chain: Chain) -> int:
    """Of all tensors that a checkpoint restores with what it stands on."""
    return sum(math.prod(record.shape) * DTYPES[record.dtype].itemsize for record in chain.tensors.values())


def _portions(tensors: Sequence[TensorRecord]) -> Iterator[dict[str, tuple[int, int]]]:
    """First row and end of parts of tensors by name, together about :data:`_PORTION_BYTES`."""
    portion: dict[str, tuple[int, int]] = {}
    free = _PORTION_BYTES
    for tensor in tensors:
        start, rows = 0, (*tensor.shape, 1)[0]
        row_bytes = max(1, math.prod(tensor.shape[1:]) * DTYPES[tensor.dtype].itemsize)
        while start < rows:
            stop = min(rows, start + max(1, free // row_bytes))
            portion[tensor.name] = start, stop
            free -= (stop - start) * row_bytes
            start = stop
            if start < rows or free <= 0:
                yield portion
                portion, free = {}, _PORTION_BYTES
    if portion:
        yield portion


def _restored(chain: Chain, rows: Mapping[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """These rows of these tensors."""
    parts = {name: [part] for name, part in rows.items()}
    for name, part in rows.items():  # to restore an average takes the weights of the same rows
        if name.startswith("average.tables."):
            parts.setdefault(name.removeprefix("average."), []).append(part)
    tensors = [_without_values(chain.tensors[name], ranges) for name, ranges in parts.items()]
    load_tensors(chain.tip, tensors, strict=False)  # what is not asked for now is left
    return {tensor.name: tensor.blocks[0].tensor for tensor in tensors}


def _without_values(record: TensorRecord, ranges: Sequence[tuple[int, int]]) -> LogicalTensor:
    """A tensor with a block for each range of rows."""
    dtype, rank = DTYPES[record.dtype], len(record.shape)
    blocks = (
        Block((start, *[0] * rank)[:rank], torch.empty((stop - start, *record.shape[1:])[:rank], dtype=dtype))
        for start, stop in ranges
    )
    return LogicalTensor(record.name, record.shape, dtype, tuple(blocks))


def _comparison(
    one: Mapping[str, TensorRecord], two: Mapping[str, TensorRecord], compared: Sequence[Change]
) -> Comparison:
    reshaped = [
        f"{name}: {_kind(record.shape, record.dtype)}, {_kind(two[name].shape, two[name].dtype)}"
        for name, record in one.items()
        if name in two and two[name] != record
    ]
    changed = [change for change in compared if change.differing]
    only_first = [name for name in one if name not in two]
    only_second = [name for name in two if name not in one]
    return Comparison(only_first, only_second, reshaped, changed, len(compared) - len(changed))


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
                largest = _larger(largest, distance)
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
            largest = _larger(largest, distance)
    return differing, largest


def _larger(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def config_differences(first: Checkpoint, second: Checkpoint) -> Iterator[tuple[str, str, str]]:
    """Each option of the configurations that differs: its dotted path and both values as text."""
    one, two = _options(first), _options(second)
    for path in {**one, **two}:
        value, other = one.get(path, _ABSENT), two.get(path, _ABSENT)
        if value != other:
            yield path, _shown(value), _shown(other)


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.facts.get("config")
    return flatten(config) if isinstance(config, dict) else {}


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else str(value)
