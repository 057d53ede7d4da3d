"""Parsed rows between the steps of preprocessing: one file a chunk, of which a single column can be read alone.

Layout of a file: magic; length and CRC-32 of the header; the header (JSON: what was counted, and the CRC-32 of every
column); then, each from a multiple of 64 bytes on, labels uint8 (M,), dense float32 (M, N), categories uint32 (F, M) and
missing bits (F, ceil(M / 8)), little endian. A file is written beside and renamed. It is not synced to the disk: what a
power failure tears, the checksums tell when it is read, and the text that it was made from is still there.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlrm.errors import DataError

_MAGIC = b"dlrmraw1"
_PREFIX = struct.Struct("<8sII")  # magic, bytes of the header, CRC-32 of the header
_ALIGNMENT = 64  # a cache line
_AGAIN = "delete it and run the command again, which makes it anew"

Float32s = npt.NDArray[np.float32]
UInt32s = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ChunkCounts:
    """What was counted in a chunk.

    Attributes:
        rows: parsed rows, M; clicks: those with label 1; skipped_rows: malformed rows that were left out.
        missing: empty fields by column, all of ``int_0`` .. and ``cat_0`` .., in file order.
    """

    rows: int
    clicks: int
    missing: dict[str, int]
    skipped_rows: int


@dataclass(frozen=True)
class RawChunk:
    """M parsed rows.

    Attributes:
        labels_M: uint8 (M,), 0 or 1.
        dense_MN: float32 (M, N), transformed.
        categories_FM: uint32 (F, M), the raw values, 0 where missing.
        missing_FM: bool (F, M), where the field is empty.
        counts: the rows, clicks and empty fields of the above.
    """

    labels_M: Bytes
    dense_MN: Float32s
    categories_FM: UInt32s
    missing_FM: Bools
    counts: ChunkCounts


def write_raw_chunk(path: Path, chunk: RawChunk) -> None:
    """Write the chunk beside ``path`` and rename it; there must be one writer at a time.

    Raises:
        DataError: the file cannot be written (a full disk, say); nothing is left of it, and what was there stays.
    """
    bits_FK = np.packbits(chunk.missing_FM, axis=1)
    blocks: list[npt.NDArray[np.generic]] = [chunk.labels_M, chunk.dense_MN, chunk.categories_FM, bits_FK]
    columns = [chunk.labels_M, chunk.dense_MN, *chunk.categories_FM, *bits_FK]
    sizes = {"num_dense": chunk.dense_MN.shape[1], "num_sparse": len(chunk.categories_FM)}
    crc32 = [zlib.crc32(np.ascontiguousarray(column).data) for column in columns]
    header = json.dumps({"counts": asdict(chunk.counts), **sizes, "crc32": crc32}).encode()

    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(_PREFIX.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
            for block in blocks:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                file.write(np.ascontiguousarray(block).data)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        problem = f"cannot be written ({error.strerror})"
        mend = "make room or mend the disk and run the command again: what is finished is kept"
        raise DataError(str(path), problem, mend=mend) from error


def read_raw_chunk(path: Path) -> RawChunk:
    """The whole chunk.

    Raises:
        DataError: the file is absent, cut off, damaged or not such a file.
    """
    with _opened(path) as file:
        header = _Header.read(file, path)
        labels_M, dense, categories, bits = (np.empty(size, np.uint8) for size in header.block_bytes)
        for block, offset in zip((labels_M, dense, categories, bits), header.block_offsets, strict=True):
            file.seek(offset)
            file.readinto(block.data)
    rows, F = header.counts.rows, header.num_sparse
    categories_FM, bits_FK = categories.view("<u4").reshape(F, rows), bits.reshape(F, -1)
    columns = [labels_M, dense, *categories_FM, *bits_FK]
    for column, name, crc32 in zip(columns, header.column_names, header.crc32, strict=True):
        _check(column, name, crc32, path)
    return RawChunk(
        labels_M=labels_M,
        dense_MN=dense.view("<f4").reshape(rows, header.num_dense),
        categories_FM=categories_FM,
        missing_FM=np.unpackbits(bits_FK, axis=1, count=rows).view(np.bool_),
        counts=header.counts,
    )


def read_category(path: Path, i: int) -> tuple[UInt32s, Bools]:
    """Raw values uint32 (M,) of category column ``i`` and where they are missing, bool (M,), without the other columns.

    Raises:
        DataError: as :func:`read_raw_chunk`; of damage, what concerns this column.
    """
    with _opened(path) as file:
        header = _Header.read(file, path)
        category_M = np.empty(header.counts.rows, "<u4")
        bits_K = np.empty(header.bit_bytes, np.uint8)
        _, _, categories, bits = header.block_offsets
        for column, offset, place in ((category_M, categories, 2 + i), (bits_K, bits, 2 + header.num_sparse + i)):
            file.seek(offset + i * column.nbytes)
            file.readinto(column.data)
            _check(column, header.column_names[place], header.crc32[place], path)
    return category_M, np.unpackbits(bits_K, count=header.counts.rows).view(np.bool_)


def read_counts(path: Path) -> ChunkCounts:
    """What was counted, without reading the columns.

    Raises:
        DataError: the file is absent, cut off, not such a file, or its header is damaged.
    """
    with _opened(path) as file:
        return _Header.read(file, path).counts


@dataclass(frozen=True)
class _Header:
    counts: ChunkCounts
    num_dense: int
    num_sparse: int
    crc32: tuple[int, ...]
    bytes: int

    @classmethod
    def read(cls, file: FileIO, path: Path) -> _Header:
        """The header of an open file, whose size must be what the header says."""
        prefix = file.read(_PREFIX.size)
        size = os.fstat(file.fileno()).st_size
        if not prefix.startswith(_MAGIC) and not _MAGIC.startswith(prefix):
            raise DataError(str(path), "is not a chunk of parsed rows", mend=_AGAIN)
        if len(prefix) < _PREFIX.size:
            raise DataError(str(path), f"is cut off ({size} bytes)", mend=_AGAIN)
        _, length, crc32 = _PREFIX.unpack(prefix)
        text = file.read(min(length, size))
        if zlib.crc32(text) != crc32:
            raise DataError(str(path), "is damaged (checksum of the header)", mend=_AGAIN)
        record = json.loads(text)
        counts = ChunkCounts(**record["counts"])
        header = cls(counts, record["num_dense"], record["num_sparse"], tuple(record["crc32"]), _PREFIX.size + length)
        expected = header.block_offsets[-1] + header.block_bytes[-1]
        if size != expected:
            raise DataError(str(path), f"has {size} bytes instead of {expected}", mend=_AGAIN)
        return header

    @property
    def bit_bytes(self) -> int:
        """Bytes of a column's missing bits."""
        return (self.counts.rows + 7) // 8

    @property
    def block_bytes(self) -> tuple[int, int, int, int]:
        """Bytes of labels, dense, categories and missing bits."""
        rows = self.counts.rows
        return rows, 4 * rows * self.num_dense, 4 * rows * self.num_sparse, self.bit_bytes * self.num_sparse

    @property
    def block_offsets(self) -> tuple[int, ...]:
        """Where each of them starts."""
        offsets, end = [], self.bytes
        for size in self.block_bytes:
            offsets.append(end + -end % _ALIGNMENT)
            end = offsets[-1] + size
        return tuple(offsets)

    @property
    def column_names(self) -> list[str]:
        """What each checksum is of."""
        sparse = [f"cat_{i}" for i in range(self.num_sparse)]
        return ["the labels", "the dense columns", *sparse, *(f"{name}'s missing bits" for name in sparse)]


def _check(column: npt.NDArray[np.generic], name: str, crc32: int, path: Path) -> None:
    if zlib.crc32(column.data) != crc32:
        raise DataError(str(path), f"is damaged (checksum of {name})", mend=_AGAIN)


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    try:
        # Unbuffered: a buffer would read past a single column.
        with FileIO(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError(str(path), "no such file", mend="run the command again, which makes it anew") from None
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", mend="check the disk or mount") from error
