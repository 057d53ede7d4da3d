"""Writing pieces of checkpoints into the blocks of a rank: all of them are verified before any block is changed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from dlrm.checkpoint.rectangles import Rectangle, intersection
from dlrm.checkpoint.stored import VERIFYING_THREADS, Checkpoint, StoredPiece
from dlrm.checkpoint.tensors import LogicalTensor

KEPT_BYTES = 1 << 30


class Target:
    """A piece and the parts of this rank's blocks that its values go to."""

    def __init__(self, checkpoint: Checkpoint, stored: StoredPiece) -> None:
        self.checkpoint, self.stored = checkpoint, stored
        self.parts: list[tuple[Rectangle, torch.Tensor]] = []

    @property
    def rectangle(self) -> Rectangle:
        """Which elements of the tensor its values are."""
        return self.stored.piece.rectangle

    def values(self, data: bytearray) -> torch.Tensor:
        """The numbers that a piece's bytes are.

        Raises:
            CheckpointError: they are none.
        """
        return self.checkpoint.values(self.stored, data)

    def aim_at(self, tensor: LogicalTensor) -> None:
        """Note what of it goes to blocks of ``tensor``."""
        for block in tensor.blocks:
            overlap = intersection(Rectangle(tuple(block.offsets), tuple(block.tensor.shape)), self.rectangle)
            if overlap is not None:
                self.parts.append((overlap, block.tensor.detach()[overlap.slices_from(block.offsets)]))


class Filling:
    """Fills blocks from pieces, read twice.

    Verifying into fresh memory instead would need that much memory again, which is what large tables do not leave; so only
    as many verified pieces as :data:`KEPT_BYTES` are kept in between, and these are not read twice.

    Args:
        targets: pieces; those that go nowhere are not read.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = [target for target in targets if target.parts]
        self._kept: list[bytearray | None] = []

    def verify(self) -> None:
        """Read all pieces, and keep the first ones of them.

        Raises:
            CheckpointError: one is damaged, or cannot be read.
        """
        files = {(at.checkpoint.path, at.stored.file.name): (at.checkpoint, at.stored.file) for at in self._targets}
        for checkpoint, file in files.values():
            checkpoint.check_header(file)
        keep, total = [], 0
        for target in self._targets:
            total += target.stored.piece.range[1] - target.stored.piece.range[0]
            keep.append(total <= KEPT_BYTES)

        def read(target: Target, keep: bool) -> bytearray | None:
            data = target.checkpoint.read(target.stored)
            target.values(data)
            return data if keep else None

        with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
            self._kept = list(pool.map(read, self._targets, keep))

    def fill(self) -> None:
        """Write what :meth:`verify` has found whole.

        Raises:
            CheckpointError: it is so no longer; some blocks may have been changed.
        """
        for index, target in enumerate(self._targets):
            data, self._kept[index] = self._kept[index], None
            values = target.values(target.checkpoint.read(target.stored) if data is None else data)
            for overlap, part in target.parts:
                part.copy_(values[overlap.slices_from(target.rectangle.offsets)])
