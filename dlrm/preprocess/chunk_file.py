"""Parsed rows between the steps of preprocessing: a file a chunk, of which single buckets can be read.

Layout of a file, little endian: magic; length and CRC-32 of the header; the header (JSON: what was counted, and how rows
are laid out); an entry for each bucket, int64: where its records begin and end, and their checksum; a checksum of these
entries; the records (:mod:`~dlrm.preprocess.records`) by bucket, those of a bucket in the order of their rows.

A file is written beside and renamed. It is not synced to the disk: what a power failure tears, the checksums tell when it
is read, and the text that it was made from is still there.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm.data.packed.write import unfinished
from dlrm.errors import DataError
from dlrm.preprocess.arrays import Int64s
from dlrm.preprocess.raw_chunk import ChunkCounts, RawChunk, lines_of
from dlrm.preprocess.records import Words, checksum, checksums

_MAGIC = b"dlrmrow2"
_PREFIX = struct.Struct("<8sII")  # magic, bytes of the header, CRC-32 of the header
_ENTRY_WORDS = 3  # int64: begin, end, checksum
AGAIN = "start over (overwrite=true), or delete it and run the command again, which makes it anew"
_MEND_DISK = "make room or mend the disk and run the command again: what is finished is kept"


@dataclass(frozen=True)
class ChunkHeader:
    """What a file says of its rows.

    Attributes:
        counts: what was counted in them.
        first_line, skipped_lines: as in :class:`RawChunk`.
        buckets: how many there are; words: of a record.
        bytes: of what is before the entries.
    """

    counts: ChunkCounts
    first_line: int
    skipped_lines: Int64s
    buckets: int
    words: int
    bytes: int

    @property
    def record_offset(self) -> int:
        """Where the records begin."""
        return self.bytes + 8 * (_ENTRY_WORDS * self.buckets + 1)

    def lines_of(self, rows: npt.NDArray[np.integer]) -> Int64s:
        """Which lines of their file some rows of the chunk are, int64."""
        return lines_of(rows, self.first_line, self.skipped_lines)


def write_chunk(path: Path, chunk: RawChunk, records_MW: Words, ends_B: Int64s) -> None:
    """Write the chunk beside ``path`` and rename it; there must be one writer at a time.

    Args:
        path: of the file.
        chunk: says what was counted.
        records_MW: its records by bucket.
        ends_B: int64 (buckets,), where the records of each bucket end.

    Raises:
        DataError: the file cannot be written (a full disk, say); nothing is left of it, and what was there stays.
    """
    header = json.dumps(
        {
            "counts": asdict(chunk.counts),
            "first_line": chunk.first_line,
            "skipped_lines": chunk.skipped_lines.tolist(),
            "buckets": len(ends_B),
            "words": records_MW.shape[1],
        }
    ).encode()
    starts = [0, *ends_B[:-1].tolist()]
    sums = checksums(records_MW, np.concatenate([[0], ends_B]))
    entries = np.stack([np.array(starts, np.uint64), ends_B.astype(np.uint64), sums], axis=1)
    beside = unfinished(path)
    try:
        with open(beside, "wb", buffering=0) as file:
            file.write(_PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
            file.write(entries.astype("<u8").tobytes() + _of_entries(entries))
            _write_all(file.fileno(), records_MW)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DataError(str(path), f"cannot be written ({error.strerror})", mend=_MEND_DISK) from error


class ChunkReader:
    """Reads a chunk's file. What its header says is kept, the file is not kept open.

    Args:
        path: of the file.
        may_be_cut: whether buckets may have been cut off, which :meth:`check_kept` looks at later.
    """

    def __init__(self, path: Path, *, may_be_cut: bool = False) -> None:
        self._path, self._may_be_cut = path, may_be_cut
        with self._opened(os.O_RDONLY) as descriptor:
            self.header = self._read_header(descriptor)
            """What the file says of its rows."""

    def bucket_rows(self) -> Int64s:
        """int64 (buckets,), the rows of each bucket."""
        size = 8 * _ENTRY_WORDS * self.header.buckets
        with self._opened(os.O_RDONLY) as descriptor:
            stored = os.pread(descriptor, size + 8, self.header.bytes)
        entries = np.frombuffer(stored[:size], "<u8").reshape(-1, _ENTRY_WORDS)
        if stored[size:] != _of_entries(entries):
            raise self.error("is damaged (checksum of the entries)")
        rows_B: Int64s = (entries[:, 1] - entries[:, 0]).astype(np.int64)
        return rows_B

    def read(self, bucket: int, records_RW: Words) -> tuple[int, int]:
        """Read the records of a bucket to the beginning of an array.

        Returns:
            How many there are, and which checksum they have to have; to look at it is left to the caller.

        Raises:
            DataError: the file is gone or cut off, or the array is too small.
        """
        with self._opened(os.O_RDONLY) as descriptor:
            start, stop, expected = self._entry(descriptor, bucket)
            if not start <= stop <= start + len(records_RW):
                raise self.damaged(bucket)
            self._read_into(descriptor, records_RW[: stop - start], self._offset(start))
        return stop - start, expected

    def read_all(self) -> Words:
        """uint32 (M, W), all records in the order of their rows."""
        records_MW = np.empty((self.header.counts.rows, self.header.words), np.uint32)
        filled = 0
        for bucket in range(self.header.buckets):
            found, expected = self.read(bucket, records_MW[filled:])
            if checksum(records_MW[filled : filled + found]) != expected:
                raise self.damaged(bucket)
            filled += found
        if filled != len(records_MW):
            raise self.error(f"has {filled} rows instead of {len(records_MW)}")
        if self.header.buckets == 1:
            return records_MW
        order_M = np.empty(filled, np.int64)
        order_M[records_MW[:, 0]] = np.arange(filled)
        return np.take(records_MW, order_M, axis=0)

    def cut(self, buckets: int) -> None:
        """Give back the room of all but the first so many buckets, for good.

        Raises:
            DataError: the disk refuses.
        """
        try:
            with self._opened(os.O_RDWR) as descriptor:
                end = self._end_of(descriptor, buckets)
                if os.fstat(descriptor).st_size > end:
                    os.ftruncate(descriptor, end)
        except OSError as error:
            raise DataError(str(self._path), f"cannot be cut ({error.strerror})", mend=_MEND_DISK) from error

    def check_kept(self, buckets: int) -> None:
        """Make sure that the first so many buckets were not cut off.

        Raises:
            DataError: they were.
        """
        with self._opened(os.O_RDONLY) as descriptor:
            size, needed = os.fstat(descriptor).st_size, self._end_of(descriptor, buckets)
        if size < needed:
            raise self.error(f"has {size} bytes instead of {needed}")

    def damaged(self, bucket: int) -> DataError:
        """That the records of a bucket are not what was written."""
        return self.error(f"is damaged (checksum of bucket {bucket})")

    def _entry(self, descriptor: int, bucket: int) -> tuple[int, int, int]:
        stored = os.pread(descriptor, 8 * _ENTRY_WORDS, self.header.bytes + 8 * _ENTRY_WORDS * bucket)
        start, stop, expected = np.frombuffer(stored, "<u8").tolist()
        return start, stop, expected

    def _end_of(self, descriptor: int, buckets: int) -> int:
        """Where the records of the first so many buckets end."""
        return self._offset(self._entry(descriptor, buckets - 1)[1] if buckets else 0)

    def _offset(self, record: int) -> int:
        return self.header.record_offset + 4 * self.header.words * record

    def _read_header(self, descriptor: int) -> ChunkHeader:
        prefix = os.pread(descriptor, _PREFIX.size, 0)
        size = os.fstat(descriptor).st_size
        if not prefix.startswith(_MAGIC) and not _MAGIC.startswith(prefix):
            raise self.error("is not a chunk of parsed rows")
        if len(prefix) < _PREFIX.size:
            raise self.error(f"is cut off ({size} bytes)")
        _, length, crc32 = _PREFIX.unpack(prefix)
        text = os.pread(descriptor, min(length, size), _PREFIX.size)
        if zlib.crc32(text) != crc32:
            raise self.error("is damaged (checksum of the header)")
        header = self._parsed(text, _PREFIX.size + length)
        expected = header.record_offset + 4 * header.words * header.counts.rows
        if not (header.record_offset if self._may_be_cut else expected) <= size <= expected:
            raise self.error(f"has {size} bytes instead of {expected}")
        return header

    def _parsed(self, text: bytes, header_bytes: int) -> ChunkHeader:
        try:
            record: dict[str, Any] = json.loads(text)
            return ChunkHeader(
                counts=ChunkCounts(**record["counts"]),
                first_line=record["first_line"],
                skipped_lines=np.array(record["skipped_lines"], np.int64),
                buckets=record["buckets"],
                words=record["words"],
                bytes=header_bytes,
            )
        except (
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
            OverflowError,
        ):  # its checksum is right: another version
            raise self.error("has a header of another version") from None

    def _read_into(self, descriptor: int, wanted: Words, offset: int) -> None:
        view = memoryview(wanted.reshape(-1).view(np.uint8).data)
        while view:
            size = os.preadv(descriptor, [view], offset)
            if not size:
                raise self.error("is cut off")
            view, offset = view[size:], offset + size

    def error(self, problem: str) -> DataError:
        """That something is wrong with the file."""
        return DataError(str(self._path), problem, mend=AGAIN)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        try:
            descriptor = os.open(self._path, flags)
        except FileNotFoundError:
            raise self.error("no such file") from None
        try:
            yield descriptor
        except OSError as error:
            mend = "check the disk or mount"
            raise DataError(str(self._path), f"cannot be read ({error.strerror})", mend=mend) from error
        finally:
            os.close(descriptor)


def _of_entries(entries: npt.NDArray[np.uint64]) -> bytes:
    return zlib.crc32(entries.astype("<u8").tobytes()).to_bytes(8, "little")


def _write_all(descriptor: int, records_MW: Words) -> None:
    view = memoryview(np.ascontiguousarray(records_MW).reshape(-1).view(np.uint8).data)
    while view:
        view = view[os.write(descriptor, view) :]
