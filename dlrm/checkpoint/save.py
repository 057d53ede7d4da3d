"""Writing a checkpoint: each rank its part, rank 0 the whole, without a word between them but through the storage.

1. :func:`prepare`, on rank 0 while training stands: a working folder, whose *token* the other ranks are told. (Storage
   that cannot rename has none: there everything is written where it will be.)
2. :func:`write_rank`, on every rank: files of tensors, then ``rank_0003.json`` with their checksums; or, where that
   fails, ``rank_0003.failed`` with the reason.
3. :func:`commit`, on rank 0: wait for all ranks' files, write the manifest, give the folder its name, mark it committed.

Each step is durable before the next begins. Until the mark is there, nothing takes the folder for a checkpoint, and
whatever ends the save before leaves other checkpoints as they were.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlrm.checkpoint.manifest import (
    COMMITTED_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    RANK_FORMAT,
    ChunkRecord,
    FileRecord,
    Manifest,
    RankRecord,
    TensorRecord,
    checksum,
    committed_text,
    contradiction,
    dump_record,
    header,
    parse_record,
    tensor_dtypes,
)
from dlrm.checkpoint.names import (
    OWNER_NAME,
    checkpoint_name,
    discarded_path,
    done_name,
    failed_name,
    new_token,
    tensors_name,
    working_path,
)
from dlrm.checkpoint.owner import this_process
from dlrm.checkpoint.snapshot import CopiedChunk, Snapshot
from dlrm.checkpoint.soundness import DivergedStateError
from dlrm.checkpoint.storage import Storage, names_if_there, storage_errors
from dlrm.errors import CheckpointError

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 1.0
_MAX_REASON_BYTES = 2000
Judge = Callable[[Snapshot], str]
NOT_SAVED = "the state was not saved; training and earlier checkpoints are as they were"


@dataclass(frozen=True)
class Destination:
    """Where a checkpoint of one save goes, seen from one rank.

    Attributes:
        final: the folder it will be; token: of the save.
    """

    storage: Storage
    final: str
    step: int
    token: str
    rank: int
    world_size: int

    @property
    def working(self) -> str:
        """The folder it is written into."""
        return _working(self.storage, self.final, self.token)


def _working(storage: Storage, final: str, token: str) -> str:
    return working_path(final, token) if storage.renames else final


def prepare(storage: Storage, folder: str, step: int) -> str:
    """Make the working folder of a save and return its token; for rank 0.

    What an interrupted save has left under the final name without committing it is cleared away.

    Raises:
        CheckpointError: there is a checkpoint of this step; the folder cannot be written.
    """
    final, token = f"{folder}/{checkpoint_name(step)}", new_token()
    with storage_errors(final, hint=NOT_SAVED):
        if checkpoint_name(step) in names_if_there(storage, folder):
            if not storage.is_folder(final) or COMMITTED_NAME in storage.names(final):
                raise CheckpointError(final, "is there already, and nothing is overwritten", hint="move it away")
            if storage.renames:
                discard(storage, final)
            else:
                storage.remove_folder(final)  # the new one is written there, so that nothing may stay
        working = _working(storage, final, token)
        storage.make_folder(working)
        try:
            storage.put(f"{working}/{OWNER_NAME}", this_process())
        except OSError:
            remove_if_possible(storage, working)
            raise
    return token


def discard(storage: Storage, final: str) -> None:
    """Remove a checkpoint so that, wherever that is interrupted, what remains is not taken for one."""
    discarded = final
    if storage.renames:
        discarded = discarded_path(final)
        storage.rename_folder(final, discarded)
    else:
        storage.remove_file(f"{final}/{COMMITTED_NAME}")
    remove_if_possible(storage, discarded)


def abandon(destination: Destination) -> None:
    """Remove what a save has written that was said to have failed, once no rank writes there any more.

    If it is committed all the same (only the answer to that was lost, or what follows has failed), it stays.
    """
    storage = destination.storage
    with contextlib.suppress(OSError):  # then the next prune, or save of this step, tries again
        if storage.renames or COMMITTED_NAME not in storage.names(destination.final):
            storage.remove_folder(destination.working)


def remove_if_possible(storage: Storage, folder: str) -> None:
    """Remove what nothing takes for a checkpoint; where that fails, the next prune tries again."""
    with contextlib.suppress(OSError):
        storage.remove_folder(folder)


def write_rank(destination: Destination, snapshot: Snapshot, judge: Judge = lambda snapshot: "") -> None:
    """Write a rank's part into the working folder, durable, and say so there; or that it failed.

    Args:
        destination: of the save.
        snapshot: the rank's part.
        judge: says why it must not be saved, in words; empty: it may.

    Raises:
        CheckpointError: the storage is full, fails, or is not the one that rank 0 writes to.
        DivergedStateError: the judge objects; nothing is written.
    """
    try:
        if problem := judge(snapshot):
            raise DivergedStateError(destination.final, problem, hint=NOT_SAVED)
        with storage_errors(destination.working, hint=NOT_SAVED):
            files = tuple(_write_file(destination, snapshot, index) for index in range(len(snapshot.files)))
            record = RankRecord(token=destination.token, rank=destination.rank, tensors=snapshot.tensors, files=files)
            destination.storage.put(f"{destination.working}/{done_name(destination.rank)}", dump_record(record))
    except BaseException as error:
        with contextlib.suppress(OSError):  # then rank 0 learns of it at the next save, or when its time is up
            reason = ascii(str(error) or type(error).__name__)[1:-1].encode()[:_MAX_REASON_BYTES]
            destination.storage.put(f"{destination.working}/{failed_name(destination.rank)}", reason)
        raise


def _write_file(destination: Destination, snapshot: Snapshot, index: int) -> FileRecord:
    chunks = snapshot.files[index]
    dtypes = tensor_dtypes(snapshot.tensors)
    unchecked = [_chunk_record(chunk, 0, "0" * 64) for chunk in chunks]
    name, head = tensors_name(destination.rank, index), header(unchecked, dtypes)
    records, end = [], len(head)
    with destination.storage.writer(f"{destination.working}/{name}") as file:
        file.write(head)
        for chunk in chunks:
            file.write(chunk.data)
            records.append(_chunk_record(chunk, end, checksum(chunk.data)))
            end += len(chunk.data)
    return FileRecord(name=name, bytes=end, pieces=tuple(records))


def _chunk_record(chunk: CopiedChunk, start: int, digest: str) -> ChunkRecord:
    return ChunkRecord(
        tensor=chunk.tensor,
        offsets=chunk.slice.offsets,
        shape=chunk.slice.shape,
        range=(start, start + len(chunk.data)),
        checksum=digest,
    )


def commit(
    destination: Destination,
    metadata: dict[str, Any],
    *,
    time_limit_s: float,
    cancelled: threading.Event | None = None,
) -> Manifest:
    """Make the parts of all ranks a checkpoint; for rank 0, after it has written its own.

    Args:
        destination: of the save.
        metadata: JSON that the manifest is to hold.
        time_limit_s: how long to wait for the other ranks.
        cancelled: is set when somebody knows that a rank has failed.

    Raises:
        CheckpointError: a rank failed or took too long, the parts do not make whole tensors, the storage fails.
    """
    storage, working, final = destination.storage, destination.working, destination.final
    with storage_errors(working, hint=NOT_SAVED):
        _await_ranks(destination, time_limit_s, cancelled or threading.Event())
        manifest = _merge(
            destination, [_rank_record(destination, rank) for rank in range(destination.world_size)], metadata
        )
        for file in manifest.files:
            found = storage.size(f"{working}/{file.name}")
            if found != file.bytes:
                raise CheckpointError(f"{working}/{file.name}", f"has {found} bytes, {file.bytes} were written to it")
        text = dump_record(manifest)
        storage.put(f"{working}/{MANIFEST_NAME}", text)
        for name in (OWNER_NAME, *map(done_name, range(destination.world_size))):
            storage.remove_file(f"{working}/{name}")
        storage.sync_folder(working)
        if storage.renames:
            storage.rename_folder(working, final)
            storage.sync_folder(final.rpartition("/")[0])
        storage.put(f"{final}/{COMMITTED_NAME}", committed_text(text))
    return manifest


def _await_ranks(destination: Destination, time_limit_s: float, cancelled: threading.Event) -> None:
    """Return when all ranks have said that they are done; ask the storage ever less often."""
    deadline, pause = time.monotonic() + time_limit_s, _FIRST_PAUSE_S
    while True:
        names = set(destination.storage.names(destination.working))
        for rank in range(destination.world_size):
            if failed_name(rank) in names:
                path = f"{destination.working}/{failed_name(rank)}"
                reason = bytes(destination.storage.read(path, 0, _MAX_REASON_BYTES)).decode("ascii", "replace")
                raise CheckpointError(destination.final, f"rank {rank} could not write its part: {reason}")
        missing = [rank for rank in range(destination.world_size) if done_name(rank) not in names]
        if not missing:
            return
        if time.monotonic() > deadline:
            problem = (
                f"{len(missing)} rank(s) did not finish writing within {time_limit_s:g} s, the first is {missing[0]}"
            )
            raise CheckpointError(destination.final, problem, hint="see whether it is alive and its storage not slow")
        if cancelled.wait(pause):
            raise CheckpointError(destination.final, "another rank could not write its part", hint=NOT_SAVED)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def _rank_record(destination: Destination, rank: int) -> RankRecord:
    path = f"{destination.working}/{done_name(rank)}"
    record = parse_record(
        RankRecord, destination.storage.read(path, 0, MAX_MANIFEST_BYTES), path, format_name=RANK_FORMAT
    )
    if (record.token, record.rank) != (destination.token, rank):
        raise CheckpointError(path, f"is of rank {record.rank} and another save", hint=NOT_SAVED)
    return record


def _merge(destination: Destination, ranks: list[RankRecord], metadata: dict[str, Any]) -> Manifest:
    tensors: dict[str, TensorRecord] = {}
    for record in ranks:
        for tensor in record.tensors:
            if tensors.setdefault(tensor.name, tensor) != tensor:
                problem = (
                    f"rank {record.rank} has {tensor.name} as {tensor.dtype} {list(tensor.shape)}, another otherwise"
                )
                raise CheckpointError(destination.final, problem, hint=NOT_SAVED)
    files = tuple(file for record in ranks for file in record.files)
    problem = contradiction(tuple(tensors.values()), files)
    if problem:
        raise CheckpointError(destination.final, f"what the ranks wrote is no whole: {problem}", hint=NOT_SAVED)
    return Manifest(
        step=destination.step,
        world_size=destination.world_size,
        tensors=tuple(tensors.values()),
        files=files,
        facts=json.loads(json.dumps(metadata, allow_nan=False)),
    )
