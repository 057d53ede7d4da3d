"""Decoded row groups, the least recently used of which go when the memory for them is used up."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from dlrm.data.parquet.decode import DecodedGroup


@dataclass
class _Entry:
    nbytes: int
    group: Future[DecodedGroup] = field(default_factory=Future)


class GroupCache:
    """Keeps decoded row groups while they fit; any number of threads may ask for them.

    Room is made before a group is decoded, so kept and arriving groups together stay within the capacity unless what
    several threads decode at the same moment exceeds it by itself.

    Args:
        capacity_bytes: bytes of the groups' arrays.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def bytes_kept(self) -> int:
        """Bytes of the groups that are kept or being decoded."""
        return self._bytes

    def get(self, key: Hashable, nbytes: int, decode: Callable[[], DecodedGroup]) -> DecodedGroup:
        """The group called ``key``; decoded once, however many threads ask for it at the same time.

        Args:
            key: which group.
            nbytes: how many bytes it will have.
            decode: makes the group; an error of it is raised in every thread that waits, and nothing is kept.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            else:
                mine = self._entries[key] = _Entry(nbytes)
                self._bytes += nbytes
                self._make_room()
        if entry is not None:
            return entry.group.result()
        try:
            group = decode()
        except BaseException as error:  # whoever waits for the group must hear of it
            self._drop(key)
            mine.group.set_exception(error)
            raise
        self._arrived(mine, group)
        return group

    def _arrived(self, entry: _Entry, group: DecodedGroup) -> None:
        with self._lock:
            self._bytes += group.nbytes - entry.nbytes
            entry.nbytes = group.nbytes
            entry.group.set_result(group)
            self._make_room()

    def _make_room(self) -> None:
        """Let go of the groups that nobody asked for longest; one that is being decoded is somebody's."""
        for key in [key for key, entry in self._entries.items() if entry.group.done()]:
            if self._bytes <= self.capacity_bytes:
                return
            self._drop_locked(key)

    def _drop(self, key: Hashable) -> None:
        with self._lock:
            self._drop_locked(key)

    def _drop_locked(self, key: Hashable) -> None:
        self._bytes -= self._entries.pop(key).nbytes
