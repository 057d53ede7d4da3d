"""What a delta checkpoint restores, with all that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from dlrm.checkpoint.delta.chain import Chain, open_chain
from dlrm.checkpoint.delta.dirty_rows import fill_dirty_rows, find_row_damage, verify_dirty_rows
from dlrm.checkpoint.delta.format import Delta
from dlrm.checkpoint.delta.quantise import QUANTISED_PREFIX, restored, restored_slice
from dlrm.checkpoint.fill import Filling, Progress, Target, ignore
from dlrm.checkpoint.manifest import TensorRecord
from dlrm.checkpoint.slices import Slice
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.errors import CheckpointError


@dataclass(frozen=True)
class DeltaReader:
    """Reads a delta (:class:`dlrm.checkpoint.reader.Reader`).

    Whole tensors are read from itself, some restored from fewer bytes, the tables from the full checkpoint at the bottom of
    its chain, and over them go the dirty rows of every delta, the oldest first.
    """

    chain: Chain

    @property
    def checkpoint(self) -> Checkpoint:
        """The delta itself."""
        return self.chain.head.checkpoint

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """All that is read, the full one first, the delta itself last."""
        return self.chain.members

    @property
    def tensors(self) -> Mapping[str, TensorRecord]:
        """The global tensors that it restores."""
        return self.chain.tensors

    def prepare(
        self, tensors: Sequence[GlobalTensor], *, verify: bool = True, progress: Progress = ignore
    ) -> Callable[[], None]:
        """Of whole tensors and dirty rows."""
        deltas = self.chain.deltas
        filling = Filling(target for tensor in tensors for target in self._targets(tensor))
        if verify:
            for delta in deltas:  # the last one's quantised tensors are read with the whole ones
                verify_dirty_rows(delta, [tensor for tensor in tensors if tensor.name not in delta.quantised])
            filling.verify()

        def fill() -> None:
            filling.fill(progress)
            for delta in deltas:
                fill_dirty_rows(delta, tensors)

        return fill

    def _targets(self, tensor: GlobalTensor) -> Iterator[Target]:
        """The chunks of a tensor: of the head, or where that has not all of it, of the base."""
        head = self.checkpoint
        if tensor.name in self.chain.head.quantised:
            for stored in head.chunks.get(f"{QUANTISED_PREFIX}{tensor.name}", ()):
                yield _Quantised(head, stored, tensor)
        else:
            source = head if tensor.name in head.tensors else self.chain.base
            for stored in source.chunks.get(tensor.name, ()):
                yield Target(source, stored, tensor)

    def find_damage(self, *, of_last: bool = False) -> list[CheckpointError]:
        """What keeps the dirty rows of all deltas, or of the last alone, from being applied."""
        deltas = self.chain.deltas[-1:] if of_last else self.chain.deltas
        return [found for delta in deltas for found in find_row_damage(delta, self.tensors)]


class _Quantised(Target):
    """A chunk of a tensor in fewer bytes."""

    @property
    def slice(self) -> Slice:
        return restored_slice(self.checkpoint, self.stored)

    def values(self, data: bytearray) -> torch.Tensor:
        return restored(self.checkpoint, self.stored, data)


def deltas_since(reader: object, manifest_checksum: str) -> tuple[Delta, ...] | None:
    """The deltas of a chain after the checkpoint with this checksum, the oldest first; None if that is not of the chain.

    Args:
        reader: of a checkpoint, a full one or a delta.
        manifest_checksum: of another one.
    """
    if not isinstance(reader, DeltaReader):
        return None
    checksums = [member.manifest_checksum for member in reader.members]
    return reader.chain.deltas[checksums.index(manifest_checksum) :] if manifest_checksum in checksums else None


def open_delta(
    checkpoint: Checkpoint, *, damaged: Collection[str], opened: dict[str, Checkpoint]
) -> DeltaReader | None:
    """Open what a delta restores; None for a full checkpoint. See :func:`dlrm.checkpoint.reader.open_reader`."""
    chain = open_chain(checkpoint, damaged=damaged, opened=opened)
    return None if chain is None else DeltaReader(chain)
