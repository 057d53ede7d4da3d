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
    MAX_DIMENSIONS,
    MAX_FILE_BYTES,
    MAX_PIECE_BYTES,
    TensorRecord,
)
from dlrm.checkpoint.rectangles import Rectangle, cut
from dlrm.checkpoint.tensors import Block, LogicalTensor


@dataclass(frozen=True)
class SourcePiece:
    """A rectangle of a logical tensor and the values to be saved, as a view of the training state."""

    tensor: str
    rectangle: Rectangle
    values: torch.Tensor

    @property
    def bytes(self) -> int:
        """Of its values."""
        return self.values.numel() * self.values.element_size()


@dataclass(frozen=True)
class CopiedPiece:
    """A rectangle of a logical tensor and its bytes."""

    tensor: str
    rectangle: Rectangle
    data: memoryview


@dataclass(frozen=True)
class Snapshot:
    """What a rank writes, detached from training.

    Attributes:
        tensors: all logical tensors this rank knows of; files: the pieces of each file, in order.
    """

    tensors: tuple[TensorRecord, ...]
    files: tuple[tuple[CopiedPiece, ...], ...]

    @property
    def bytes(self) -> int:
        """Of all pieces."""
        return sum(len(piece.data) for pieces in self.files for piece in pieces)


class Snapshots:
    """Takes snapshots of one rank's part of the state, each into the memory of the one before."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self._rank, self._world_size = rank, world_size
        self._buffers: list[torch.Tensor] = []

    def snapshot(self, tensors: Sequence[LogicalTensor]) -> Snapshot:
        """Copy what this rank is to write into the host's memory, where the snapshot before was.

        That is its primary blocks, and its part of the replicated tensors.

        Args:
            tensors: the whole state; the replicated ones in it are the same on every rank.

        Raises:
            ValueError: blocks that do not fit their tensor.
        """
        copied = tuple(_copy(pieces, buffer) for pieces, buffer in self._provide(tensors))
        if any(buffer.is_pinned() for buffer in self._buffers):
            torch.cuda.synchronize()
        records = tuple(tensor.record for tensor in tensors)
        return Snapshot(records, copied)

    def reserve(self, tensors: Sequence[LogicalTensor]) -> None:
        """Take the memory for snapshots of ``tensors`` now: the first touch of memory costs more than the copy."""
        self._provide(tensors)
        for buffer in self._buffers:
            buffer.zero_()

    def _provide(self, tensors: Sequence[LogicalTensor]) -> list[tuple[list[SourcePiece], torch.Tensor]]:
        """The pieces of each file, and a buffer for each, at least as large as needed; those that fit are used again.

        The smallest that fits is. Where none does, the largest of the others makes way for a new one, so that there are
        never more of them than a snapshot has had files.
        """
        files = _fill_files(pieces_to_write(tensors, self._rank, self._world_size))
        sizes = [sum(piece.bytes for piece in pieces) for pieces in files]
        pinned = any(piece.values.is_cuda for pieces in files for piece in pieces)
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
        return [(pieces, chosen[index]) for index, pieces in enumerate(files)]


def _copy(pieces: list[SourcePiece], buffer: torch.Tensor) -> tuple[CopiedPiece, ...]:
    memory = buffer.numpy().data
    copied, end = [], 0
    for piece in pieces:
        start, end = end, end + piece.bytes
        target = buffer[start:end].view(piece.values.dtype).view(piece.values.shape)
        target.copy_(piece.values, non_blocking=True)
        copied.append(CopiedPiece(piece.tensor, piece.rectangle, memory[start:end]))
    return tuple(copied)


def view(tensors: Sequence[LogicalTensor]) -> Snapshot:
    """A snapshot of tensors that this process has whole: views of their memory, so that they must not change."""
    files = _fill_files(pieces_to_write(tensors, rank=0, world_size=1))
    return Snapshot(tuple(tensor.record for tensor in tensors), tuple(tuple(map(_view, pieces)) for pieces in files))


def _view(piece: SourcePiece) -> CopiedPiece:
    data = piece.values.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return CopiedPiece(piece.tensor, piece.rectangle, data)


def pieces_to_write(tensors: Sequence[LogicalTensor], rank: int, world_size: int) -> list[SourcePiece]:
    """What ``rank`` saves: all its primary blocks, and of replicated tensors the pieces that fall to it.

    Raises:
        ValueError: blocks that do not fit their tensor, a name twice.
    """
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError("two tensors of the state have the same name")
    pieces = []
    for tensor in tensors:
        check_blocks(tensor)
        if not tensor.replicated:
            for block in tensor.blocks:
                if block.primary:
                    pieces += _pieces_of(tensor.name, block)
    pieces += _share_of_replicated([tensor for tensor in tensors if tensor.replicated], rank, world_size)
    return pieces


def _pieces_of(name: str, block: Block) -> list[SourcePiece]:
    values = block.tensor.detach()
    found = []
    for part in cut(tuple(values.shape), MAX_PIECE_BYTES // values.element_size()):
        offsets = tuple(start + inner for start, inner in zip(block.offsets, part.offsets, strict=True))
        view = values[part.slices_from()]
        found.append(SourcePiece(name, Rectangle(offsets, part.shape), view))
    return found


def _share_of_replicated(tensors: list[LogicalTensor], rank: int, world_size: int) -> list[SourcePiece]:
    """Each piece goes to the rank with the fewest bytes so far, the largest pieces first; every rank finds the same."""
    pieces = [piece for tensor in tensors for piece in _pieces_of(tensor.name, tensor.blocks[0])]
    pieces.sort(key=lambda piece: (-piece.bytes, piece.tensor, piece.rectangle))
    loads = [(0, other) for other in range(world_size)]
    mine = []
    for piece in pieces:
        load, owner = loads[0]
        heapq.heapreplace(loads, (load + piece.bytes, owner))
        if owner == rank:
            mine.append(piece)
    return mine


def check_blocks(tensor: LogicalTensor) -> None:
    """Refuse blocks that do not fit their tensor.

    Raises:
        ValueError: they do not: a bug of whoever made them.
    """
    if tensor.dtype not in DTYPE_NAMES or len(tensor.shape) > MAX_DIMENSIONS:
        raise ValueError(f"{tensor.name}: no checkpoint holds tensors of {tensor.dtype} and shape {tensor.shape}")
    for block in tensor.blocks:
        rectangle = block.rectangle
        if block.tensor.dtype != tensor.dtype or not rectangle.within(tensor.shape):
            raise ValueError(
                f"{tensor.name} {tensor.dtype} {tensor.shape}: {rectangle} {block.tensor.dtype} does not fit"
            )
    if tensor.replicated and [tuple(block.tensor.shape) for block in tensor.blocks] != [tensor.shape]:
        raise ValueError(f"{tensor.name} is replicated, so that its one block has to be all of it")


def _fill_files(pieces: list[SourcePiece]) -> list[list[SourcePiece]]:
    """Pieces by file; the widest numbers first, so that every number lies where its width divides its place."""
    files: list[list[SourcePiece]] = []
    size = MAX_FILE_BYTES
    for piece in sorted(pieces, key=lambda piece: -piece.values.element_size()):
        if size + piece.bytes > MAX_FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append(piece)
        size += piece.bytes
    return files
