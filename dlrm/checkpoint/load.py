"""Filling the training state from a checkpoint, whatever the worlds and shardings of the two.

A rank reads what overlaps its shards, twice: first it verifies all of it, and only when every rank has found all that it
needs whole does any rank change a shard. Then it is read again, verified again, and copied into the shards
(:mod:`dlrm.checkpoint.fill` says why). Should storage that was whole a moment ago fail in the second reading, the error
says that the state is part old, part new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlrm.checkpoint.reader import Reader, open_reader
from dlrm.checkpoint.snapshot import check_shards
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.distributed.collectives import Collectives, OneProcess, together
from dlrm.errors import CheckpointError, CheckpointMismatchError, HalfLoadedError


def differences(checkpoint: Checkpoint, tensors: Sequence[GlobalTensor]) -> list[str]:
    """In what a checkpoint does not fit the state, each in words; nothing where it fits.

    Args:
        checkpoint: an open one; the state that it restores is compared.
        tensors: the whole state; names, shapes and dtypes count.

    Raises:
        CheckpointError: it depends on something that is not there, or not whole.
    """
    return _differences(open_reader(checkpoint), tensors)


def _differences(reader: Reader, tensors: Sequence[GlobalTensor], *, part: bool = False) -> list[str]:
    here = {tensor.name: tensor for tensor in tensors}
    found = []
    for name, tensor in here.items():
        stored = reader.tensors.get(name)
        if stored is None:
            found.append(f"{name} is not in the checkpoint")
            continue
        if stored.shape != tensor.shape:
            found.append(f"{name} has shape {list(stored.shape)} in the checkpoint, {list(tensor.shape)} here")
        if stored.torch_dtype != tensor.dtype:
            wanted = str(tensor.dtype).removeprefix("torch.")
            found.append(f"{name} is {stored.dtype} in the checkpoint, {wanted} here")
    if not part:
        found += [f"{name} is in the checkpoint, not here" for name in reader.tensors if name not in here]
    return found


def load_tensors(
    checkpoint: Checkpoint,
    tensors: Sequence[GlobalTensor],
    *,
    strict: bool = True,
    part: bool = False,
    collectives: Collectives | None = None,
) -> list[str]:
    """Write a checkpoint's values into all shards of this rank.

    Args:
        checkpoint: an open one.
        tensors: the whole state, with the shards to fill.
        strict: refuse a checkpoint that does not fit; otherwise what does not fit is left as it is.
        part: what the checkpoint holds beside ``tensors`` is not wanted, and no difference.
        collectives: of the ranks that load together. None changes anything if one of them finds something wrong.

    Returns:
        What was left: the differences; empty if ``strict``.

    Raises:
        CheckpointMismatchError: it does not fit; all differences are in it.
        HalfLoadedError: what was whole in the first reading was not in the second.
        CheckpointError: a chunk of it or of what it depends on is damaged or cannot be read; no shard was changed on any
            rank.
    """
    collectives = collectives or OneProcess()
    for tensor in tensors:
        check_shards(tensor)

    def verify() -> tuple[list[str], Callable[[], None]]:
        reader = open_reader(checkpoint)
        found = _differences(reader, tensors, part=part)
        if found and strict:
            raise CheckpointMismatchError(checkpoint.path, found, hint="use the configuration that it was saved with")
        return found, reader.prepare([tensor for tensor in tensors if reader.tensors.get(tensor.name) == tensor.record])

    left, fill = together(collectives, verify)

    def fill_or_say() -> None:
        try:
            fill()
        except CheckpointError as error:
            problem = f"{error.problem}, although it was whole a moment ago; the state is part old, part new"
            raise HalfLoadedError(error.path, problem, hint="start again from a checkpoint") from error

    together(collectives, fill_or_say)
    return left
