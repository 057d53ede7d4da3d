"""Writing chunks of checkpoints into the shards of a rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from dlrm.checkpoint.slices import Slice, intersection
from dlrm.checkpoint.stored import VERIFYING_THREADS, Checkpoint, StoredChunk
from dlrm.checkpoint.tensors import GlobalTensor

KEPT_BYTES = 1 << 30
Progress = Callable[[int], None]
"""Told a number of bytes, in several threads."""


def ignore(size: int) -> None:
    """A progress that nobody follows."""


class Target:
    """A chunk and the parts of this rank's shards that its values go to.

    Args:
        checkpoint: that holds it.
        stored: the chunk; tensor: with the shards.
    """

    def __init__(self, checkpoint: Checkpoint, stored: StoredChunk, tensor: GlobalTensor) -> None:
        self.checkpoint, self.stored = checkpoint, stored
        self._parts: list[tuple[Slice, torch.Tensor]] = []
        for shard in tensor.shards:
            overlap = intersection(shard.slice, self.slice)
            if overlap is not None:
                self._parts.append((overlap, shard.tensor.detach()[overlap.index_from(shard.offsets)]))

    @property
    def is_needed(self) -> bool:
        """Whether anything of it goes anywhere."""
        return bool(self._parts)

    @property
    def slice(self) -> Slice:
        """Which elements of the tensor its values are."""
        return self.stored.chunk.slice

    def values(self, data: bytearray) -> torch.Tensor:
        """The numbers that its verified bytes are.

        Raises:
            CheckpointError: they are none.
        """
        return self.checkpoint.values(self.stored, data)

    def fill(self, data: bytearray) -> None:
        """Copy what the shards need of its verified bytes."""
        values = self.values(data)
        for overlap, part in self._parts:
            part.copy_(values[overlap.index_from(self.slice.offsets)])


class Filling:
    """Fills shards from chunks, which are verified before any shard is changed, and again when they are filled in.

    Verifying into fresh memory instead would need that much memory again, which is what large tables do not leave; so only
    as many verified chunks as :data:`KEPT_BYTES` are kept in between, and these are not read twice.

    Args:
        targets: chunks; those of which nothing is needed are not read.
    """

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = [target for target in targets if target.is_needed]
        self._kept: list[bytearray | None] = [None] * len(self._targets)

    def verify(self) -> None:
        """Read all chunks, and keep the first ones of them.

        Raises:
            CheckpointError: one is damaged, or cannot be read.
        """
        files = {(at.checkpoint.path, at.stored.file.name): (at.checkpoint, at.stored.file) for at in self._targets}
        for checkpoint, file in files.values():
            checkpoint.check_header(file)
        keep, total = [], 0
        for target in self._targets:
            total += target.stored.chunk.bytes
            keep.append(total <= KEPT_BYTES)

        def read(target: Target, keep: bool) -> bytearray | None:
            data = target.checkpoint.read(target.stored)
            target.values(data)
            return data if keep else None

        with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
            self._kept = list(pool.map(read, self._targets, keep))

    def fill(self, progress: Progress = ignore) -> None:
        """Fill the shards; what :meth:`verify` has not kept is read.

        Raises:
            CheckpointError: a chunk is damaged, or cannot be read; some shards may have been changed.
        """

        def fill(index: int) -> None:
            target, data = self._targets[index], self._kept[index]
            self._kept[index] = None
            target.fill(target.checkpoint.read(target.stored) if data is None else data)
            progress(target.stored.chunk.bytes)

        with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
            list(pool.map(fill, range(len(self._targets))))
