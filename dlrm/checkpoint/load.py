"""Filling the training state from a checkpoint, whatever the worlds and shardings of the two.

A rank reads the pieces that overlap its blocks, twice: first it verifies all of them, and only when every rank has found
all its pieces whole does any rank change a block. Then each piece is read again, verified again, and copied into the
blocks. Verifying into fresh memory instead would need that much memory again, which is what large tables do not leave; so
only as many verified pieces as :data:`KEPT_BYTES` are kept in between, and these are not read twice. Should storage that
was whole a moment ago fail in the second reading, the error says that the state is part old, part new.

Of an increment (:mod:`dlrm.checkpoint.increments`) the whole tensors are read from itself, some restored from fewer bytes
(:mod:`dlrm.checkpoint.reduced`), the tables from the full checkpoint at the bottom of its chain, and over them go the
touched rows of every increment, the oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from dlrm.checkpoint.increments import Chain, open_chain
from dlrm.checkpoint.manifest import DTYPES, FileRecord
from dlrm.checkpoint.rectangles import Rectangle, intersection
from dlrm.checkpoint.reduced import PREFIX as REDUCED_PREFIX
from dlrm.checkpoint.reduced import restored, restored_rectangle
from dlrm.checkpoint.snapshot import check_blocks
from dlrm.checkpoint.stored import VERIFYING_THREADS, Checkpoint, StoredPiece
from dlrm.checkpoint.tensors import LogicalTensor
from dlrm.checkpoint.touched import fill_touched_rows, verify_touched_rows
from dlrm.distributed.collectives import Collectives, OneProcess, together
from dlrm.errors import CheckpointError, CheckpointMismatchError, HalfLoadedError

KEPT_BYTES = 1 << 30
_Key = tuple[str, str, int]


def differences(checkpoint: Checkpoint, tensors: Sequence[LogicalTensor]) -> list[str]:
    """In what a checkpoint does not fit the state, each in words; nothing where it fits.

    Args:
        checkpoint: an open one; of an increment, the state that it makes with what it stands on is compared.
        tensors: the whole state; names, shapes and dtypes count.

    Raises:
        CheckpointError: an increment stands on something that is not there, or not whole.
    """
    return _differences(open_chain(checkpoint), tensors)


def _differences(chain: Chain, tensors: Sequence[LogicalTensor]) -> list[str]:
    here = {tensor.name: tensor for tensor in tensors}
    found = []
    for name, tensor in here.items():
        stored = chain.tensors.get(name)
        if stored is None:
            found.append(f"{name} is not in the checkpoint")
            continue
        if stored.shape != tensor.shape:
            found.append(f"{name} has shape {list(stored.shape)} in the checkpoint, {list(tensor.shape)} here")
        if DTYPES[stored.dtype] != tensor.dtype:
            wanted = str(tensor.dtype).removeprefix("torch.")
            found.append(f"{name} is {stored.dtype} in the checkpoint, {wanted} here")
    found += [f"{name} is in the checkpoint, not here" for name in chain.tensors if name not in here]
    return found


def load_tensors(
    checkpoint: Checkpoint,
    tensors: Sequence[LogicalTensor],
    *,
    strict: bool = True,
    collectives: Collectives | None = None,
) -> list[str]:
    """Write a checkpoint's values into all blocks of this rank.

    Args:
        checkpoint: an open one.
        tensors: the whole state, with the blocks to fill.
        strict: refuse a checkpoint that does not fit; otherwise what does not fit is left as it is.
        collectives: of the ranks that load together. None changes anything if one of them finds something wrong.

    Returns:
        What was left: the differences; empty if ``strict``.

    Raises:
        CheckpointMismatchError: it does not fit; all differences are in it.
        HalfLoadedError: what was whole in the first reading was not in the second.
        CheckpointError: a piece of it or of what it stands on is damaged or cannot be read; no block was changed on any
            rank.
    """
    collectives = collectives or OneProcess()
    for tensor in tensors:
        check_blocks(tensor)

    def verify() -> tuple[list[str], Callable[[], None]]:
        chain = open_chain(checkpoint)
        found = _differences(chain, tensors)
        if found and strict:
            raise CheckpointMismatchError(checkpoint.path, found, mend="use the configuration that it was saved with")
        fitting = [tensor for tensor in tensors if _fits(chain, tensor)]
        for increment in chain.increments:  # the last one's reduced tensors are read with the whole ones
            verify_touched_rows(increment, [tensor for tensor in fitting if tensor.name not in increment.reduced])
        targets = _targets(chain, fitting)
        kept = _verified(targets)
        return found, lambda: _fill(chain, fitting, targets, kept)

    left, fill = together(collectives, verify)
    together(collectives, fill)
    return left


def _fits(chain: Chain, tensor: LogicalTensor) -> bool:
    record = chain.tensors.get(tensor.name)
    return record is not None and record.shape == tensor.shape and DTYPES[record.dtype] == tensor.dtype


class _Target:
    """A piece and the parts of this rank's blocks that its values go to."""

    def __init__(self, checkpoint: Checkpoint, stored: StoredPiece, *, reduced: bool) -> None:
        self.checkpoint, self.stored, self._reduced = checkpoint, stored, reduced
        self.rectangle = restored_rectangle(checkpoint, stored) if reduced else stored.piece.rectangle
        self.parts: list[tuple[Rectangle, torch.Tensor]] = []

    @property
    def key(self) -> _Key:
        """What tells a piece from all others."""
        return self.checkpoint.path, self.stored.file.name, self.stored.piece.range[0]

    def values(self, data: bytearray) -> torch.Tensor:
        """The numbers that a piece's bytes are.

        Raises:
            CheckpointError: of a reduced one: they are none.
        """
        if self._reduced:
            return restored(self.checkpoint, self.stored, data)
        piece = self.stored.piece
        return torch.frombuffer(data, dtype=self.checkpoint.dtypes[piece.tensor]).view(piece.shape)

    def fill(self, data: bytearray) -> None:
        """Copy what the blocks need of a piece's bytes."""
        values = self.values(data)
        for overlap, part in self.parts:
            part.copy_(values[overlap.slices_from(self.rectangle.offsets)])


def _targets(chain: Chain, tensors: Sequence[LogicalTensor]) -> list[_Target]:
    """The pieces of whole tensors that this rank needs: from the tip, and from the base what the tip has not whole."""
    found = []
    for tensor in tensors:
        reduced = bool(chain.increments) and tensor.name in chain.increments[-1].reduced
        name = f"{REDUCED_PREFIX}{tensor.name}" if reduced else tensor.name
        checkpoint = chain.tip if name in chain.tip.tensors else chain.base
        for stored in checkpoint.pieces.get(name, ()):
            target = _Target(checkpoint, stored, reduced=reduced)
            for block in tensor.blocks:
                held = Rectangle(tuple(block.offsets), tuple(block.tensor.shape))
                overlap = intersection(held, target.rectangle)
                if overlap is not None:
                    view = block.tensor.detach()[overlap.slices_from(block.offsets)]
                    target.parts.append((overlap, view))
            if target.parts:
                found.append(target)
    return found


def _verified(targets: list[_Target]) -> dict[_Key, bytearray]:
    """Read all pieces, and return the first ones of them."""
    files: dict[tuple[str, str], tuple[Checkpoint, FileRecord]] = {
        target.key[:2]: (target.checkpoint, target.stored.file) for target in targets
    }
    for checkpoint, file in files.values():
        checkpoint.check_header(file)
    keep, total = set(), 0
    for target in targets:
        total += target.stored.piece.range[1] - target.stored.piece.range[0]
        if total <= KEPT_BYTES:
            keep.add(target.key)

    def read(target: _Target) -> bytearray | None:
        data = target.checkpoint.read(target.stored)
        target.values(data)
        return data if target.key in keep else None

    with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
        return {
            target.key: data for target, data in zip(targets, pool.map(read, targets), strict=True) if data is not None
        }


def _fill(chain: Chain, tensors: Sequence[LogicalTensor], targets: list[_Target], kept: dict[_Key, bytearray]) -> None:
    try:
        for target in targets:
            data = kept.pop(target.key, None)
            target.fill(target.checkpoint.read(target.stored) if data is None else data)
        for increment in chain.increments:
            fill_touched_rows(increment, tensors)
    except CheckpointError as error:
        problem = f"{error.problem}, although it was whole a moment ago; the state is part old, part new"
        raise HalfLoadedError(error.path, problem, mend="start again from a checkpoint") from error
