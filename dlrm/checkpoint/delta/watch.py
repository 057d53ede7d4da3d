"""What the next delta would depend on, looked after while training goes on.

A delta is worth nothing without every checkpoint of its chain. Before another is saved, sizes, times and inodes of
their files are compared with those right after they were saved. What changes without a trace there, a bit that flips on a
disk, is found by reading alone: behind training, after each save, a part of the chain is read again, so that all of a full
checkpoint has been read once before the next full one takes its place.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from dlrm.checkpoint.delta.format import delta_record
from dlrm.checkpoint.storage import Stamps, Storage, UnreachableError, reading
from dlrm.checkpoint.stored import Checkpoint, Part, open_checkpoint, part_bytes
from dlrm.errors import CheckpointError

LEAST_READ_BYTES = 16 << 20
"""After a save: small chains are read as a whole each time."""


@dataclass(frozen=True)
class _Member:
    checkpoint: Checkpoint
    stamps: Stamps


class DeltaWatch:
    """Looks after the newest chain of a run; on rank 0.

    :meth:`note` is called by the thread that saves, :meth:`fault` by training.

    Args:
        storage: of the run's checkpoints.
        deltas: how many a chain has at most.
    """

    def __init__(self, storage: Storage, *, deltas: int) -> None:
        self._storage, self._deltas = storage, max(1, deltas)
        self._lock = threading.Lock()
        self._members: list[_Member] = []
        self._unread: deque[tuple[Checkpoint, Part]] = deque()
        self._fault = ""
        self._reader: threading.Thread | None = None
        self.damaged: set[str] = set()
        """Paths of checkpoints that are not, or may not be, as they were saved."""

    def note(self, path: str) -> None:
        """Look after a checkpoint that has just been saved; a full one begins a chain, and ends the one before."""
        try:
            checkpoint = open_checkpoint(path, self._storage)
            full = delta_record(checkpoint) is None
            with reading(path):
                member = _Member(checkpoint, self._storage.stamps(path))
        except CheckpointError as error:
            with self._lock:
                self._fault = str(error)
            return
        with self._lock:
            if full:
                self._members, self._unread, self._fault = [], deque(), ""
            self._members.append(member)
            if self._reader is None or not self._reader.is_alive():
                self._reader = threading.Thread(target=self._read_on, name="reading again", daemon=True)
                self._reader.start()

    def fault(self) -> str:
        """Why another delta may not depend on the chain, in words; empty: it can."""
        with self._lock:
            members, fault = list(self._members), self._fault
        for member in members:
            fault = fault or self._change(member)
        with self._lock:
            self._fault = self._fault or fault
        return fault

    def settle(self) -> None:
        """Return when nothing is being read."""
        if self._reader is not None:
            self._reader.join()

    def _change(self, member: _Member) -> str:
        """In what a checkpoint is not as it was when it had been saved; nothing of it is read."""
        path = member.checkpoint.path
        try:
            with reading(path):
                found = self._storage.stamps(path)
        except UnreachableError as error:
            return str(error)
        except CheckpointError:
            self.damaged.add(path)
            return f"{path}: is no longer there"
        changed = sorted(
            name for name in found.keys() | member.stamps.keys() if found.get(name) != member.stamps.get(name)
        )
        if not changed:
            return ""
        self.damaged.add(path)
        return f"{path}/{changed[0]}: was {'changed' if changed[0] in found else 'removed'} after it had been saved"

    def _read_on(self) -> None:
        """Read the next part of the chain."""
        with self._lock:
            members, unread = list(self._members), self._unread
        if not unread:
            unread.extend((member.checkpoint, part) for member in members for part in member.checkpoint.parts)
        left = max(LEAST_READ_BYTES, members[0].checkpoint.manifest.bytes // self._deltas)
        while unread and left > 0:
            checkpoint, part = unread.popleft()
            left -= part_bytes(part)
            try:
                checkpoint.verify(part)
            except UnreachableError:
                unread.append((checkpoint, part))  # another time
                return
            except CheckpointError as error:
                with self._lock:
                    if unread is self._unread:  # or it is of a chain that has ended, and may be on its way out
                        self._fault = self._fault or str(error)
                        self.damaged.add(checkpoint.path)
                return
