"""NumPy arrays in files, mapped read-only into memory once everything that their headers claim was checked.

Nothing is unpickled, and a header is believed only where type, order, shape and the number of bytes behind it agree. The
mapping is shared between the processes of a host, and only pages that are read are loaded.
"""

from __future__ import annotations

import ast
import errno
import math
import mmap
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.errors import DataError

PREPARE_AGAIN = "prepare it again, or copy it anew"
NPY_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 65_535  # of an array without named fields; version 1.0 cannot hold more
_HEADER_KEYS = {"descr", "fortran_order", "shape"}


class MappedFile:
    """A file's bytes, mapped read-only, and how it was when it was opened.

    Args:
        path: a regular file; links are followed.

    Raises:
        DataError: the file is missing, no regular file, or cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # before opening, which would wait at a named pipe
                kind = "a folder" if os.path.isdir(path) else "neither a file nor a folder"
                raise DataError(path, f"is {kind} where a file is needed", hint=PREPARE_AGAIN)
            with open(path, "rb", buffering=0) as file:
                self._opened = os.fstat(file.fileno())
                self._map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ) if self.size else None
        except FileNotFoundError:
            raise DataError(path, "is missing", hint=PREPARE_AGAIN) from None
        except OSError as error:
            too_many = error.errno in (errno.EMFILE, errno.ENFILE)
            hint = "raise the limit of open files (ulimit -n)" if too_many else "check its permissions"
            raise DataError(path, f"cannot be read ({error.strerror})", hint=hint) from None
        self._address = np.frombuffer(self.view, dtype=np.uint8).__array_interface__["data"][0]

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self._opened.st_size

    @property
    def view(self) -> memoryview:
        """The file's bytes; none of them is read before it is looked at."""
        return memoryview(self._map if self._map is not None else b"")

    def will_need(self, array: NDArray[Any]) -> None:
        """Start loading what lies behind an array of this file: in one go, instead of a little at every page fault."""
        if self._map is not None and array.nbytes:
            first = array.__array_interface__["data"][0] - self._address
            start = first // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, first + array.nbytes - start)

    def check_size(self) -> None:
        """Make sure that the mapping still has a file behind it: reading beyond its end would kill the process.

        Raises:
            DataError: the file has another size than when it was opened.
        """
        now = self._map.size() if self._map is not None else self.size
        if now != self.size:
            self._changed(f"had {self.size:,} bytes, has {now:,} now")

    def check_unchanged(self) -> None:
        """Make sure that nobody has written to the file since it was opened.

        A file that another has taken the place of, or that was removed, is still there for those who opened it.

        Raises:
            DataError: the file has another size or another time of modification.
        """
        self.check_size()
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            return
        same_file = (now.st_dev, now.st_ino) == (self._opened.st_dev, self._opened.st_ino)
        if same_file and now.st_mtime_ns != self._opened.st_mtime_ns:
            self._changed("was written to")

    def _changed(self, how: str) -> None:
        hint = "what was read of it is not to be trusted: start anew, and write new data beside instead of over it"
        raise DataError(self.path, f"changed while it was read ({how})", hint=hint)


@dataclass(frozen=True)
class NpyHeader:
    """What the header of an .npy file says.

    Attributes:
        descr: type as NumPy writes it, e.g. ``<f4``; data_offset: where the data begin, in bytes.
    """

    descr: str
    fortran_order: bool
    shape: tuple[int, ...]
    data_offset: int


def parse_npy_header(start: bytes, name: str) -> NpyHeader:
    """Read the header of an .npy file (numpy.lib.format, versions 1.0, 2.0 and 3.0).

    Args:
        start: the first 64 KiB and 12 bytes of the file, or all of it.
        name: how errors call the file.

    Raises:
        DataError: no .npy file, a version or a header that NumPy does not write.
    """
    if not start:
        raise DataError(name, "is empty", hint=PREPARE_AGAIN)
    if start[:6] != NPY_MAGIC:
        raise DataError(name, f"is no .npy file (it begins with {start[:6]!r})", hint=PREPARE_AGAIN)
    version = tuple(start[6:8])
    if version not in ((1, 0), (2, 0), (3, 0)):
        found = ".".join(str(number) for number in version) or "none"
        raise DataError(name, f"has .npy format version {found}, known are 1.0, 2.0 and 3.0", hint=PREPARE_AGAIN)
    length_bytes = 2 if version == (1, 0) else 4
    begin = 8 + length_bytes
    length = int.from_bytes(start[8:begin], "little")
    if length > _MAX_HEADER_BYTES:
        raise DataError(name, f"claims a header of {length:,} bytes", hint=PREPARE_AGAIN)
    text = start[begin : begin + length]
    if len(start) < begin or len(text) < length:
        raise DataError(name, "ends within its header", hint=PREPARE_AGAIN)
    return _parse_fields(text, begin + length, name)


# CPython before 3.13 counts the depth of a syntax tree for all threads together, and now and then raises SystemError where
# two build one (python/cpython#106905).
_ONE_PARSER = threading.Lock()


def _parse_fields(text: bytes, data_offset: int, name: str) -> NpyHeader:
    try:
        with _ONE_PARSER:
            fields: Any = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that literal_eval raises
        fields = None
    if not isinstance(fields, dict) or set(fields) != _HEADER_KEYS:
        raise DataError(name, "has a header that is none of NumPy's", hint=PREPARE_AGAIN)
    shape, order = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or not isinstance(order, bool):
        raise DataError(name, "has a header with an impossible shape or order", hint=PREPARE_AGAIN)
    return NpyHeader(str(fields["descr"]), order, shape, data_offset)


def map_array(
    file: MappedFile,
    types: Sequence[str],
    *,
    start: int = 0,
    stop: int | None = None,
    name: str = "",
    may_be_empty: bool = False,
) -> NDArray[Any]:
    """The two-dimensional array of an .npy file, or of one that lies within another file.

    Args:
        file: where it lies.
        types: what its type may be, as NumPy writes it (``<f4``).
        start: first byte of ``file`` that belongs to the .npy file.
        stop: the byte after its last; the end of ``file`` if left out.
        name: how errors call it; the file's path if left out.
        may_be_empty: whether there may be no columns, as there are none of dense values without dense features.

    Returns:
        (rows, columns), C-contiguous and read-only, of one of ``types``; an array of one dimension has one column. It may
        be unaligned where it lies within another file.

    Raises:
        DataError: no .npy file, another type, order or shape, more or fewer bytes than the header says.
    """
    name = name or file.path
    stop = file.size if stop is None else stop
    header = parse_npy_header(bytes(file.view[start : min(stop, start + 12 + _MAX_HEADER_BYTES)]), name)
    _check_header(header, types, name)
    if not may_be_empty and math.prod(header.shape[1:]) == 0:
        raise DataError(name, "has no columns", hint=PREPARE_AGAIN)
    rows, columns = header.shape if len(header.shape) == 2 else (header.shape[0], 1)
    dtype = np.dtype(header.descr)
    expected, found = rows * columns * dtype.itemsize, stop - start - header.data_offset
    if expected != found:
        problem = f"is {'truncated' if found < expected else 'too long'}: {rows:,} x {columns} {dtype} are"
        raise DataError(name, f"{problem} {expected:,} bytes, there are {found:,}", hint=PREPARE_AGAIN)
    offset = start + header.data_offset
    return np.frombuffer(file.view[offset : offset + expected], dtype=dtype).reshape(rows, columns)


def _check_header(header: NpyHeader, types: Sequence[str], name: str) -> None:
    if "|O" in header.descr:
        problem = "holds pickled Python objects, which are not loaded"
        raise DataError(name, problem, hint=f"save it as an array of {_type_names(types)}")
    if header.descr not in types:
        problem = f"has type {header.descr[:40]!r}, where {_type_names(types)} is needed"
        # To the widest type: what is unsigned would turn negative in a narrower one.
        raise DataError(name, problem, hint=f"convert it: array.astype(np.{np.dtype(types[-1]).name})")
    if len(header.shape) not in (1, 2):
        problem = f"has shape {header.shape}, where (rows, columns) is needed"
        raise DataError(name, problem, hint=PREPARE_AGAIN)
    if header.fortran_order and len(header.shape) == 2:
        hint = "save it row by row: np.save(file, np.ascontiguousarray(array))"
        raise DataError(name, "is stored column by column (Fortran order)", hint=hint)


def _type_names(types: Sequence[str]) -> str:
    return " or ".join(f"{np.dtype(text).name} ({text})" for text in types)
