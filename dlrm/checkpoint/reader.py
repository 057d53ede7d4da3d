"""What a checkpoint restores: global tensors and metadata, whether it holds everything or depends on others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dlrm.checkpoint.delta.reader import open_delta
from dlrm.checkpoint.fill import Filling, Progress, Target, ignore
from dlrm.checkpoint.manifest import TensorRecord
from dlrm.checkpoint.storage import Storage
from dlrm.checkpoint.stored import Checkpoint, find_damage, open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.errors import CheckpointError


class Reader(Protocol):
    """Reads the state that a checkpoint restores."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, with its metadata."""

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """All that is read: a full checkpoint first, this one last. Of a full one itself alone."""

    @property
    def tensors(self) -> Mapping[str, TensorRecord]:
        """The global tensors that it restores, by name."""

    def prepare(
        self, tensors: Sequence[GlobalTensor], *, verify: bool = True, progress: Progress = ignore
    ) -> Callable[[], None]:
        """Verify all that these tensors' shards need; what is returned fills them.

        Args:
            tensors: such as the checkpoint restores, some or all.
            verify: false: nothing is read before it is filled in, where it is verified anyway; for shards that nobody uses
                unless they are whole.
            progress: is told the bytes of chunks that were filled in, in several threads.

        Raises:
            CheckpointError: something is damaged, or cannot be read; by what is returned as well.
        """

    def find_damage(self, *, of_last: bool = False) -> list[CheckpointError]:
        """What keeps it from being restored although all members are as they were written.

        Args:
            of_last: look at the checkpoint itself alone, not at those it depends on.
        """


@dataclass(frozen=True)
class FullReader:
    """Reads a checkpoint that holds everything."""

    checkpoint: Checkpoint

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """The checkpoint."""
        return (self.checkpoint,)

    @property
    def tensors(self) -> Mapping[str, TensorRecord]:
        """Those of the checkpoint."""
        return self.checkpoint.tensors

    def prepare(
        self, tensors: Sequence[GlobalTensor], *, verify: bool = True, progress: Progress = ignore
    ) -> Callable[[], None]:
        """Of the chunks that overlap shards."""
        chunks = self.checkpoint.chunks
        filling = Filling(
            Target(self.checkpoint, stored, tensor) for tensor in tensors for stored in chunks.get(tensor.name, ())
        )
        if verify:
            filling.verify()
        return lambda: filling.fill(progress)

    def find_damage(self, *, of_last: bool = False) -> list[CheckpointError]:
        """Nothing: its bytes are all there is."""
        return []


def open_reader(
    checkpoint: Checkpoint | str | Path,
    storage: Storage | None = None,
    *,
    damaged: Collection[str] = (),
    opened: dict[str, Checkpoint] | None = None,
) -> Reader:
    """Open what a checkpoint restores; all that it depends on is opened, too.

    Args:
        checkpoint: an open one, or its folder; those it depends on lie beside it.
        storage: where that is; what its path or URL says by default.
        damaged: paths of checkpoints that are known not to be whole.
        opened: checkpoints by path that need not be opened again; those that are opened here are added.

    Raises:
        UnreachableError: the storage fails, so that nothing is known of it.
        CheckpointError: it, or one that it depends on, is known to be damaged, is not there or not the one that it was.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint, storage)
    if checkpoint.path in damaged:
        raise CheckpointError(checkpoint.path, "is damaged, as was found before", hint="use an older checkpoint")
    return open_delta(checkpoint, damaged=damaged, opened={} if opened is None else opened) or FullReader(checkpoint)


def find_all_damage(reader: Reader) -> list[CheckpointError]:
    """Read all that a checkpoint needs and return what is wrong with it; nothing if it can be restored."""
    damage = [found for member in reader.members for found in find_damage(member)]
    return damage or reader.find_damage()
