"""``checkpoint diff``: how two checkpoints differ, element by element, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dlrm.checkpoint.fill import Progress
from dlrm.checkpoint.manifest import ChunkRecord, TensorRecord
from dlrm.checkpoint.reader import FullReader, Reader
from dlrm.checkpoint.slices import Slice
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.config.describe import flatten

_PORTION_BYTES = 256 << 20
"""Of each state at a time; the chunks that these rows are in are read besides."""
_STEP_ELEMENTS = 1 << 22
_SAME_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ABSENT = object()

Rows = tuple[int, int]
"""The first one, and the one after the last."""


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


def compare(first: Reader, second: Reader, progress: Progress) -> Comparison:
    """Compare the states that two checkpoints restore, some rows of each tensor at a time.

    Rows of full checkpoints that are in chunks cut alike, with equal checksums, are equal and not read.

    Raises:
        CheckpointError: a chunk is damaged or cannot be read.
    """
    one, two = first.tensors, second.tensors
    found = {name: Change(name, math.prod(one[name].shape), 0, 0.0) for name in one if two.get(name) == one[name]}
    same = _SameChunks(first, second)
    for portion in _portions([one[name] for name in found]):
        rows = {name: part for name, part in portion.items() if not same.hold(name, part)}
        state, other = _restored(first, rows), _restored(second, rows)
        for name in rows:
            found[name] = found[name].and_more(*_distance(state[name], other[name]))
        progress(sum(_bytes_of(one[name], part) for name, part in portion.items()))
    return _comparison(one, two, list(found.values()))


def state_bytes(reader: Reader) -> int:
    """Of all tensors that a checkpoint restores."""
    return sum(record.bytes for record in reader.tensors.values())


class _SameChunks:
    """The chunks that two full checkpoints have alike."""

    def __init__(self, first: Reader, second: Reader) -> None:
        self._first, self._others = first, set[tuple[str, Slice, str]]()
        if isinstance(first, FullReader) and isinstance(second, FullReader):
            self._others = {_key(chunk) for file in second.checkpoint.manifest.files for chunk in file.chunks}

    def hold(self, name: str, rows: Rows) -> bool:
        """Whether these rows of a tensor are in such chunks alone."""
        chunks = (stored.chunk for stored in self._first.checkpoint.chunks.get(name, ()))
        return bool(self._others) and all(_key(chunk) in self._others for chunk in chunks if _has_any(chunk, rows))


def _key(chunk: ChunkRecord) -> tuple[str, Slice, str]:
    return chunk.tensor, chunk.slice, chunk.checksum


def _has_any(chunk: ChunkRecord, rows: Rows) -> bool:
    return not chunk.shape or (chunk.offsets[0] < rows[1] and rows[0] < chunk.offsets[0] + chunk.shape[0])


def _bytes_of(tensor: TensorRecord, rows: Rows) -> int:
    return (rows[1] - rows[0]) * math.prod(tensor.shape[1:]) * tensor.torch_dtype.itemsize


def _portions(tensors: Sequence[TensorRecord]) -> Iterator[dict[str, Rows]]:
    """Rows of tensors by name, together about :data:`_PORTION_BYTES`."""
    portion: dict[str, Rows] = {}
    free = _PORTION_BYTES
    for tensor in tensors:
        start, rows = 0, (*tensor.shape, 1)[0]
        row_bytes = max(1, _bytes_of(tensor, (0, 1)))
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


def _restored(reader: Reader, rows: Mapping[str, Rows]) -> dict[str, torch.Tensor]:
    """These rows of these tensors."""
    parts = {name: [part] for name, part in rows.items()}
    for name, part in rows.items():  # to restore an average takes the weights of the same rows
        if name.startswith("average.tables.") and not isinstance(reader, FullReader):
            parts.setdefault(name.removeprefix("average."), []).append(part)
    tensors = [_without_values(reader.tensors[name], ranges) for name, ranges in parts.items()]
    reader.prepare(tensors, verify=False)()
    return {tensor.name: tensor.shards[0].tensor for tensor in tensors}


def _without_values(record: TensorRecord, ranges: Sequence[Rows]) -> GlobalTensor:
    """A tensor with a shard for each range of rows."""
    dtype, rank = record.torch_dtype, len(record.shape)
    shards = (
        Shard((start, *[0] * rank)[:rank], torch.empty((stop - start, *record.shape[1:])[:rank], dtype=dtype))
        for start, stop in ranges
    )
    return GlobalTensor(record.name, record.shape, dtype, tuple(shards))


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


def _distance(one: torch.Tensor, two: torch.Tensor) -> tuple[int, float]:
    """The number of elements whose bits differ, and the largest absolute difference of their values."""
    differing, largest = 0, 0.0
    bits = _SAME_WIDTH[one.element_size()]
    rows = max(1, _STEP_ELEMENTS // max(1, math.prod(one.shape[1:])))
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
    one, two = _options(first.metadata), _options(second.metadata)
    for path in {**one, **two}:
        value, other = one.get(path, _ABSENT), two.get(path, _ABSENT)
        if value != other:
            yield path, _shown(value), _shown(other)


def _options(metadata: dict[str, Any]) -> dict[str, Any]:
    config = metadata.get("config")
    return flatten(config) if isinstance(config, dict) else {}


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else str(value)
