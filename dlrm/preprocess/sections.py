"""Intermediate files: an array in *sections*, each of which can be read, and checked, by itself.

The parsed rows of a chunk are in such a file by bucket of the shuffle, and the values that occur in it by column.

Layout, little endian: magic; length and CRC-32 of the header; the header, JSON; of each section where its items begin and
end, int64, and their CRC-32, int64; the CRC-32 of these entries, int64; the items.

A file is written beside and renamed. It is not synced to the disk: what a power failure tears, the checksums tell when it
is read, and the text that it was made from is still there.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm.data.packed.write import unfinished
from dlrm.errors import DataError
from dlrm.preprocess.records import Int64s

_MAGIC = b"dlrmsec1"
_PREFIX = struct.Struct("<8sII")  # magic, bytes of the header, CRC-32 of the header
_ENTRY = struct.Struct("<qqq")  # begin, end, CRC-32
_MEND = "start over (overwrite=true), or delete it and run the command again, which makes it anew"
_MEND_DISK = "make room or mend the disk and run the command again: what is finished is kept"


def write_sections(path: Path, header: Mapping[str, Any], items_K: npt.NDArray[Any], ends_S: Int64s) -> None:
    """Write the file beside ``path`` and rename it; there must be one writer at a time.

    Args:
        path: of the file.
        header: what is to be known of the items; JSON.
        items_K: the items, of any type of fixed size, section by section.
        ends_S: int64 (S,), where each section ends.

    Raises:
        DataError: the file cannot be written (a full disk, say); nothing is left of it, and what was there stays.
    """
    text = json.dumps(header).encode()
    data, size = _bytes_of(items_K), items_K.itemsize
    begins = [0, *ends_S[:-1].tolist()]
    entries = b"".join(
        _ENTRY.pack(begin, end, zlib.crc32(data[begin * size : end * size]))
        for begin, end in zip(begins, ends_S.tolist(), strict=True)
    )
    beside = unfinished(path)
    try:
        with open(beside, "wb", buffering=0) as file:
            file.write(_PREFIX.pack(_MAGIC, len(text), zlib.crc32(text)) + text)
            file.write(entries + _checksum(entries))
            while data:
                data = data[file.write(data) :]
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(str(path), f"cannot be written ({error.strerror})", mend=_MEND_DISK) from error


class SectionFile:
    """Reads such a file. Its header is kept, the file is not kept open.

    Args:
        path: of the file.
        dtype: of its items.
        sections: how many there are.

    Attributes:
        header: what the file says of its items.

    Raises:
        DataError: there is no such file, or it is damaged; from every method.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, sections: int) -> None:
        self._path, self._dtype, self._sections = path, np.dtype(dtype), sections
        with self._opened() as file:
            prefix = os.pread(file, _PREFIX.size, 0)
            if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
                raise self._error("is not an intermediate file of preprocess, or cut off")
            _, length, crc32 = _PREFIX.unpack(prefix)
            text = os.pread(file, min(length, os.fstat(file).st_size), _PREFIX.size)
        if zlib.crc32(text) != crc32:
            raise self._error("is damaged (checksum of the header)")
        self.header: dict[str, Any] = json.loads(text)
        self._entries = _PREFIX.size + length
        self._items = self._entries + _ENTRY.size * sections + 8

    def lengths(self) -> Int64s:
        """int64 (S,), how many items each section has."""
        with self._opened() as file:
            entries = self._bytes(file, _ENTRY.size * self._sections + 8, self._entries)
        if entries[-8:] != _checksum(entries[:-8]):
            raise self._error("is damaged (checksum of the entries)")
        begins_S, ends_S, _ = np.frombuffer(entries[:-8], "<i8").reshape(-1, 3).T
        return np.asarray(ends_S - begins_S)

    def read(
        self, section: int, start: int = 0, stop: int | None = None, *, into: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Items ``start`` .. ``stop - 1`` of a section; their checksum is looked at where all of them are read.

        Args:
            section: which one.
            start: the first item.
            stop: where they end; by default where the section does.
            into: where they are to be, from its first place on; an array of their own by default.
        """
        with self._opened() as file:
            begin, end, crc32 = _ENTRY.unpack(self._bytes(file, _ENTRY.size, self._entries + _ENTRY.size * section))
            count = (end - begin if stop is None else stop) - start
            items = np.empty(max(0, count), self._dtype) if into is None else into[: max(0, count)]
            if len(items) != count:
                raise self._error(f"is damaged (checksum of section {section})")
            self._fill(file, _bytes_of(items), self._items + items.itemsize * (begin + start))
        if count == end - begin and zlib.crc32(_bytes_of(items)) != crc32:
            raise self._error(f"is damaged (checksum of section {section})")
        return items

    def read_all(self) -> npt.NDArray[Any]:
        """The items of all sections."""
        ends_S = np.cumsum(self.lengths())
        items = np.empty(int(ends_S[-1]), self._dtype)
        for section, begin in enumerate([0, *ends_S[:-1].tolist()]):
            self.read(section, into=items[begin:])
        return items

    def keep(self, sections: int) -> None:
        """Give back the room of all but the first so many sections, for good."""
        end = self._items + self._dtype.itemsize * int(self.lengths()[:sections].sum())
        try:
            if os.stat(self._path).st_size > end:
                os.truncate(self._path, end)
        except OSError as error:
            raise DataError(str(self._path), f"cannot be cut ({error.strerror})", mend=_MEND_DISK) from error

    def _bytes(self, file: int, size: int, offset: int) -> bytearray:
        found = bytearray(size)
        self._fill(file, memoryview(found), offset)
        return found

    def _fill(self, file: int, view: memoryview, offset: int) -> None:
        while view:
            size = os.preadv(file, [view], offset)
            if not size:
                raise self._error("is cut off")
            view, offset = view[size:], offset + size

    def _error(self, problem: str) -> DataError:
        return DataError(str(self._path), problem, mend=_MEND)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise self._error("no such file") from None
        try:
            yield file
        except OSError as error:
            mend = "check the disk or mount"
            raise DataError(str(self._path), f"cannot be read ({error.strerror})", mend=mend) from error
        finally:
            os.close(file)


def _bytes_of(items: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(items).view(np.uint8).data  # a view where they are contiguous, as those to fill are


def _checksum(entries: bytes | bytearray) -> bytes:
    return struct.pack("<q", zlib.crc32(entries))
