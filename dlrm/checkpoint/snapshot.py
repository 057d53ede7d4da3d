"""Copying what a rank will write out of the training state: all that training has to stop for.

The copy is laid out as it will lie in the files, so that writing is checksums and writes of consecutive memory. Buffers
are kept from save to save, those of a full one while deltas are saved; they take as much memory as the rank's part of
the state.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dlrm.checkpoint.manifest import (
    DTYPE_NAMES,
    MAX_CHUNK_BYTES,
    MAX_DIMENSIONS,
    MAX_FILE_BYTES,
    TensorRecord,
)
from dlrm.checkpoint.slices import Slice, cut
from dlrm.checkpoint.tensors import GlobalTensor, Shard


@dataclass(frozen=True)
class SourceChunk:
    """A slice of a global tensor and the values to be saved, as a view of the training state."""

    tensor: str
    slice: Slice
    values: torch.Tensor

    @property
    def bytes(self) -> int:
        """Of its values."""
        return self.values.numel() * self.values.element_size()


@dataclass(frozen=True)
class CopiedChunk:
    """A slice of a global tensor and its bytes."""

    tensor: str
    slice: Slice
    data: memoryview


@dataclass(frozen=True)
class Snapshot:
    """What a rank writes, detached from training.

    Attributes:
        tensors: all global tensors this rank knows of; files: the chunks of each file, in order.
    """

    tensors: tuple[TensorRecord, ...]
    files: tuple[tuple[CopiedChunk, ...], ...]

    @property
    def bytes(self) -> int:
        """Of all chunks."""
        return sum(len(chunk.data) for chunks in self.files for chunk in chunks)


class Snapshots:
    """Takes snapshots of one rank's part of the state, each into the memory of the one before."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self._rank, self._world_size = rank, world_size
        self._buffers: list[torch.Tensor] = []

    def snapshot(self, tensors: Sequence[GlobalTensor]) -> Snapshot:
        """Copy what this rank is to write into the host's memory, where the snapshot before was.

        That is its primary shards, and its part of the replicated tensors.

        Args:
            tensors: the whole state; the replicated ones in it are the same on every rank.

        Raises:
            ValueError: shards that do not fit their tensor.
        """
        copied = tuple(_copy(chunks, buffer) for chunks, buffer in self._provide(tensors))
        if any(buffer.is_pinned() for buffer in self._buffers):
            torch.cuda.synchronize()
        records = tuple(tensor.record for tensor in tensors)
        return Snapshot(records, copied)

    def reserve(self, tensors: Sequence[GlobalTensor]) -> None:
        """Take the memory for snapshots of ``tensors`` now: the first touch of memory costs more than the copy."""
        self._provide(tensors)
        for buffer in self._buffers:
            buffer.zero_()

    def _provide(self, tensors: Sequence[GlobalTensor]) -> list[tuple[list[SourceChunk], torch.Tensor]]:
        """The chunks of each file, and a buffer for each, at least as large as needed; those that fit are used again.

        The smallest that fits is. Where none does, the largest of the others makes way for a new one, so that there are
        never more of them than a snapshot has had files.
        """
        files = _fill_files(chunks_to_write(tensors, self._rank, self._world_size))
        sizes = [sum(chunk.bytes for chunk in chunks) for chunks in files]
        pinned = any(chunk.values.is_cuda for chunks in files for chunk in chunks)
        free = sorted(self._buffers, key=torch.Tensor.numel)
        if pinned:
            free = [buffer for buffer in free if buffer.is_pinned()]
        self._buffers = []
        chosen: dict[int, torch.Tensor] = {}
        for index in sorted(range(len(files)), key=lambda index: -sizes[index]):
            fitting = next((place for place, buffer in enumerate(free) if buffer.numel() >= sizes[index]), None)
            if fitting is None:
                del free[-1:]  # first, so that its memory can be taken again
                chosen[index] = torch.empty(sizes[index], dtype=torch.uint8, pin_memory=pinned)
            else:
                chosen[index] = free.pop(fitting)
        self._buffers = [*chosen.values(), *free]
        return [(chunks, chosen[index]) for index, chunks in enumerate(files)]


def _copy(chunks: list[SourceChunk], buffer: torch.Tensor) -> tuple[CopiedChunk, ...]:
    memory = buffer.numpy().data
    copied, end = [], 0
    for chunk in chunks:
        start, end = end, end + chunk.bytes
        target = buffer[start:end].view(chunk.values.dtype).view(chunk.values.shape)
        target.copy_(chunk.values, non_blocking=True)
        copied.append(CopiedChunk(chunk.tensor, chunk.slice, memory[start:end]))
    return tuple(copied)


def view(tensors: Sequence[GlobalTensor]) -> Snapshot:
    """A snapshot of tensors that this process has whole: views of their memory, so that they must not change."""
    files = _fill_files(chunks_to_write(tensors, rank=0, world_size=1))
    return Snapshot(tuple(tensor.record for tensor in tensors), tuple(tuple(map(_view, chunks)) for chunks in files))


def _view(chunk: SourceChunk) -> CopiedChunk:
    data = chunk.values.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return CopiedChunk(chunk.tensor, chunk.slice, data)


def chunks_to_write(tensors: Sequence[GlobalTensor], rank: int, world_size: int) -> list[SourceChunk]:
    """What ``rank`` saves: all its primary shards, and of replicated tensors the chunks that fall to it.

    Raises:
        ValueError: shards that do not fit their tensor, a name twice.
    """
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError("two tensors of the state have the same name")
    chunks = []
    for tensor in tensors:
        check_shards(tensor)
        if not tensor.replicated:
            for shard in tensor.shards:
                if shard.primary:
                    chunks += _chunks_of(tensor.name, shard)
    chunks += _share_of_replicated([tensor for tensor in tensors if tensor.replicated], rank, world_size)
    return chunks


def _chunks_of(name: str, shard: Shard) -> list[SourceChunk]:
    values = shard.tensor.detach()
    found = []
    for part in cut(tuple(values.shape), MAX_CHUNK_BYTES // values.element_size()):
        offsets = tuple(start + inner for start, inner in zip(shard.offsets, part.offsets, strict=True))
        view = values[part.index_from()]
        found.append(SourceChunk(name, Slice(offsets, part.shape), view))
    return found


def _share_of_replicated(tensors: list[GlobalTensor], rank: int, world_size: int) -> list[SourceChunk]:
    """Each chunk goes to the rank with the fewest bytes so far, the largest chunks first; every rank finds the same."""
    chunks = [chunk for tensor in tensors for chunk in _chunks_of(tensor.name, tensor.shards[0])]
    chunks.sort(key=lambda chunk: (-chunk.bytes, chunk.tensor, chunk.slice))
    loads = [(0, other) for other in range(world_size)]
    mine = []
    for chunk in chunks:
        load, owner = loads[0]
        heapq.heapreplace(loads, (load + chunk.bytes, owner))
        if owner == rank:
            mine.append(chunk)
    return mine


def check_shards(tensor: GlobalTensor) -> None:
    """Refuse shards that do not fit their tensor.

    Raises:
        ValueError: they do not: a bug of whoever made them.
    """
    if tensor.dtype not in DTYPE_NAMES or len(tensor.shape) > MAX_DIMENSIONS:
        raise ValueError(f"{tensor.name}: no checkpoint holds tensors of {tensor.dtype} and shape {tensor.shape}")
    for shard in tensor.shards:
        slice_ = shard.slice
        if shard.tensor.dtype != tensor.dtype or not slice_.within(tensor.shape):
            raise ValueError(f"{tensor.name} {tensor.dtype} {tensor.shape}: {slice_} {shard.tensor.dtype} does not fit")
    if tensor.replicated and [tuple(shard.tensor.shape) for shard in tensor.shards] != [tensor.shape]:
        raise ValueError(f"{tensor.name} is replicated, so that its one shard has to be all of it")


def _fill_files(chunks: list[SourceChunk]) -> list[list[SourceChunk]]:
    """Chunks by file; the widest numbers first, so that every number lies where its width divides its place."""
    files: list[list[SourceChunk]] = []
    size = MAX_FILE_BYTES
    for chunk in sorted(chunks, key=lambda chunk: -chunk.values.element_size()):
        if size + chunk.bytes > MAX_FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append(chunk)
        size += chunk.bytes
    return files
