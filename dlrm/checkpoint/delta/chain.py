"""What a delta checkpoint depends on: a full one and the deltas between, opened and seen to fit each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dlrm.checkpoint.delta.format import Delta, DeltaRecord, Link, contradiction, delta_record
from dlrm.checkpoint.manifest import RESTORE, TensorRecord
from dlrm.checkpoint.names import checkpoint_name
from dlrm.checkpoint.storage import UnreachableError
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.errors import CheckpointError


@dataclass(frozen=True)
class Chain:
    """What has to be read for the state of a delta: a full checkpoint and all deltas up to it, the oldest first."""

    base: Checkpoint
    deltas: tuple[Delta, ...]

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """All its checkpoints, the oldest first."""
        return (self.base, *(delta.checkpoint for delta in self.deltas))

    @property
    def head(self) -> Delta:
        """The one whose state it makes."""
        return self.deltas[-1]

    @property
    def tensors(self) -> dict[str, TensorRecord]:
        """The global tensors of the state by name."""
        return self.base.tensors


def open_chain(checkpoint: Checkpoint, *, damaged: Collection[str], opened: dict[str, Checkpoint]) -> Chain | None:
    """Open all that a checkpoint depends on; None if it is a full one.

    Args:
        checkpoint: an open one; those it depends on lie beside it.
        damaged: paths of checkpoints that are known not to be whole.
        opened: checkpoints by path that need not be opened again; those that are opened here are added.

    Raises:
        UnreachableError: the storage fails, so that nothing is known of it.
        CheckpointError: one that it depends on is known to be damaged, is not there or another one than it was, or
            contradicts the base.
    """
    deltas, here = [], checkpoint
    while (record := delta_record(here)) is not None:
        deltas.append(Delta(here, record))
        if record.parent.step >= here.step or record.base.step > record.parent.step:
            problem = f"is of step {here.step} and depends on steps {record.parent.step} and {record.base.step}"
            raise CheckpointError(here.manifest_path, f"{problem}, which are not before it", hint=RESTORE)
        here = _parent(checkpoint, here, record, opened)
        if here.path in damaged:
            raise _broken(checkpoint, f"depends on {checkpoint_name(here.step)}, which is damaged")
    if not deltas:
        return None
    chain = Chain(here, tuple(reversed(deltas)))
    base = Link(step=here.step, manifest_checksum=here.manifest_checksum)
    for delta in chain.deltas:
        problem = (
            "has another base than its parent" if delta.record.base != base else contradiction(delta, chain.tensors)
        )
        if problem:
            raise CheckpointError(delta.checkpoint.manifest_path, problem, hint=RESTORE)
    return chain


def _parent(head: Checkpoint, here: Checkpoint, record: DeltaRecord, opened: dict[str, Checkpoint]) -> Checkpoint:
    name = checkpoint_name(record.parent.step)
    path = f"{here.path.rpartition('/')[0] or '.'}/{name}"
    try:
        parent = opened[path] = opened.get(path) or open_checkpoint(path, here.storage)
    except UnreachableError:
        raise
    except CheckpointError as error:
        raise _broken(head, f"depends on {name}, which is not whole ({error})") from error
    if parent.manifest_checksum != record.parent.manifest_checksum or parent.step != record.parent.step:
        raise _broken(head, f"depends on another {name} than the one beside it")
    return parent


def _broken(head: Checkpoint, problem: str) -> CheckpointError:
    return CheckpointError(head.path, problem, hint="use an older checkpoint")
