"""Saving while training goes on.

Training stands while a rank waits for its save before, agrees with the others on where the next one goes, and copies its
part of the state out. A thread writes it. What goes wrong there is told at the next save, to every rank in the same words.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlrm.checkpoint.manifest import checksum, dump_record
from dlrm.checkpoint.names import checkpoint_name
from dlrm.checkpoint.remote import located
from dlrm.checkpoint.save import Destination, Judge, abandon, commit, prepare, write_rank
from dlrm.checkpoint.snapshot import Snapshot, Snapshots
from dlrm.checkpoint.soundness import DivergedStateError
from dlrm.checkpoint.storage import Storage, reading
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.distributed.collectives import Collectives, from_rank_0, together
from dlrm.errors import CheckpointError

DEFAULT_TIME_LIMIT_S = 1800.0


@dataclass(frozen=True)
class SaveReport:
    """A finished save, seen from one rank.

    Attributes:
        path: of the checkpoint; bytes: of tensors that this rank wrote.
        stalled_s: how long training stood; written_s: from then until it was written, on rank 0 committed.
        checkpoint_bytes: of tensors that all ranks wrote; manifest_checksum: by which the checkpoint is told from others;
            both known on rank 0 alone, None elsewhere.
    """

    path: str
    step: int
    bytes: int
    stalled_s: float
    written_s: float
    checkpoint_bytes: int | None = None
    manifest_checksum: str | None = None


class AsyncSaver:
    """Saves checkpoints of a run, at most one at a time.

    Every rank has one and calls :meth:`save` and :meth:`wait` at the same places. Between such calls no rank says a word
    to another.

    Args:
        folder: of the run's checkpoints.
        collectives: of the training.
        storage: where the folder is.
        time_limit_s: how long rank 0 waits for the other ranks' parts after it has written its own.
        before_save: is called on rank 0 before anything of a save is written; a user error that it raises is raised by
            :meth:`save` on every rank.
        judge: is called in the writing thread, before it writes; what it objects to on any rank is not saved.
        on_committed: is called on rank 0, in its writing thread, once a checkpoint is committed (to prune, to report).
            What it raises is told like a failure of the save.
    """

    def __init__(
        self,
        folder: str | Path,
        collectives: Collectives,
        *,
        storage: Storage | None = None,
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        before_save: Callable[[], None] = lambda: None,
        judge: Judge = lambda snapshot: "",
        on_committed: Callable[[SaveReport], None] = lambda report: None,
    ) -> None:
        self._storage, self._folder = located(folder, storage)
        self._collectives = collectives
        self.time_limit_s, self._before_save = time_limit_s, before_save
        self.judge, self.on_committed = judge, on_committed
        self._snapshots = Snapshots(collectives.rank, collectives.world_size)
        self._in_flight: _Save | None = None
        self._met = False
        self.last: SaveReport | None = None
        """The last save that was found to be finished, by :meth:`save` or :meth:`wait`."""

    @property
    def busy(self) -> bool:
        """Whether this rank is writing, or waiting for others that are."""
        return self._in_flight is not None and self._in_flight.thread.is_alive()

    @property
    def in_flight(self) -> bool:
        """Whether there is a save whose end has not been asked for; the same on every rank."""
        return self._in_flight is not None

    @property
    def failure(self) -> BaseException | None:
        """What has gone wrong with the save in flight, as far as this rank knows yet."""
        return None if self._in_flight is None else self._in_flight.error

    def reserve(self, tensors: Sequence[GlobalTensor]) -> None:
        """Take the memory for copies of the state before training, so that the first save stalls no longer than others."""
        self._snapshots.reserve(tensors)

    def save(self, step: int, tensors: Sequence[GlobalTensor], metadata: dict[str, Any]) -> None:
        """Copy the state out and begin to write it; collective. The save before is waited for.

        Args:
            step: trained global batches.
            tensors: the whole state, with what this rank holds of it; may change once this returns.
            metadata: JSON to be found again in the checkpoint; only rank 0's count.

        Raises:
            CheckpointError: the save before has failed (this one is not begun then, and may be tried again), there is a
                checkpoint of this step, or the folder cannot be written; the same on every rank.
            DivergedStateError: the judge objected to the save before, on some rank; the same on every rank.
        """
        began = time.perf_counter()
        metadata = json.loads(json.dumps(metadata, allow_nan=False))
        failure = self._end()

        def begin() -> str:
            if failure is not None:
                raise failure
            self._before_save()
            return prepare(self._storage, self._folder, step)

        token = from_rank_0(self._collectives, begin)
        destination = Destination(
            storage=self._storage,
            final=f"{self._folder}/{checkpoint_name(step)}",
            step=step,
            token=token,
            rank=self._collectives.rank,
            world_size=self._collectives.world_size,
        )
        self._meet(destination)
        snapshot = self._snapshots.snapshot(tensors)
        self._in_flight = _Save(self, destination, snapshot, metadata, stalled_s=time.perf_counter() - began)
        self._in_flight.thread.start()

    def wait(self) -> None:
        """Return when no save is in flight on any rank; collective.

        Raises:
            CheckpointError: the save that was in flight has failed; the same on every rank.
            DivergedStateError: because the judge objected, on some rank.
        """
        if self._in_flight is None:
            return
        failure = self._end()

        def tell() -> None:
            if failure is not None:
                raise failure

        from_rank_0(self._collectives, tell)

    def wait_here(self, timeout_s: float | None = None) -> bool:
        """Return when this rank has nothing left to write, or after ``timeout_s``; no collective, for failing ranks.

        Returns:
            Whether it has nothing left to write.
        """
        if self._in_flight is not None:
            self._in_flight.thread.join(timeout_s)
        return not self.busy

    def _end(self) -> CheckpointError | None:
        """End the save in flight on every rank; on rank 0, what has gone wrong with it anywhere."""
        save, self._in_flight = self._in_flight, None
        if save is None:
            return None
        save.written.wait()
        mine = save.write_error
        told = self._collectives.all_gather_object(mine if isinstance(mine, DivergedStateError) else _in_words(mine))
        diverged = next((one for one in told if isinstance(one, DivergedStateError)), None)
        failed = [f"rank {rank}: {one}" for rank, one in enumerate(told) if one is not None]
        if failed:
            save.cancelled.set()
        save.thread.join()
        if save.error is None and not failed:
            self.last = save.report
            return None
        if self._collectives.rank == 0:  # no rank writes there any more
            abandon(save.destination)
        if diverged is not None:
            return diverged
        committed = "could not be saved" if save.report is None else "was saved, but what follows a save failed"
        failure = CheckpointError(save.destination.final, f"{committed}: {'; '.join(failed) or _in_words(save.error)}")
        failure.__cause__ = save.error
        return failure

    def _meet(self, destination: Destination) -> None:
        """At the first save, see that all ranks have the same storage."""
        if self._met:
            return

        def look() -> None:
            with reading(destination.working):
                seen = self._storage.is_folder(destination.working)
            if not seen:
                problem = f"rank {destination.rank} does not see this folder, which rank 0 has just made"
                raise CheckpointError(destination.working, problem, hint="use a folder that all hosts share")

        together(self._collectives, look)
        self._met = True


def _in_words(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"


@dataclass
class _Save:
    """A save in flight on this rank: its thread and what becomes of it."""

    saver: AsyncSaver
    destination: Destination
    snapshot: Snapshot
    metadata: dict[str, Any]
    stalled_s: float
    written: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    write_error: BaseException | None = None
    error: BaseException | None = None
    report: SaveReport | None = None

    def __post_init__(self) -> None:
        # A daemon: a rank that fails leaves at once, and what it has not finished is no checkpoint.
        self.thread = threading.Thread(target=self._run, name=f"checkpoint {self.destination.step}", daemon=True)

    def _run(self) -> None:
        began = time.perf_counter()
        try:
            write_rank(self.destination, self.snapshot, self.saver.judge)
        except BaseException as error:  # told by whoever ends this save
            self.write_error = self.error = error
        self.written.set()
        if self.error is None:
            try:
                self._finish(began)
            except BaseException as error:
                self.error = error

    def _finish(self, began: float) -> None:
        leads = self.destination.rank == 0
        manifest = None
        if leads:
            limit_s = self.saver.time_limit_s
            manifest = commit(self.destination, self.metadata, time_limit_s=limit_s, cancelled=self.cancelled)
        self.report = SaveReport(
            path=self.destination.final,
            step=self.destination.step,
            bytes=self.snapshot.bytes,
            stalled_s=self.stalled_s,
            written_s=time.perf_counter() - began,
            checkpoint_bytes=None if manifest is None else manifest.bytes,
            manifest_checksum=None if manifest is None else checksum(dump_record(manifest)),
        )
        if leads:
            self.saver.on_committed(self.report)
