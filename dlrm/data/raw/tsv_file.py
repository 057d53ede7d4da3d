"""The bytes of a text file, plain or gzip, in blocks of whole lines.

Which of the two a file is, its first bytes say and not its name. Everything that can be wrong with a file as a whole
(it is missing, cut off, damaged, something else altogether) ends here, as one :class:`~dlrm.errors.DataError`.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import zlib
from collections.abc import Iterator

from dlrm.errors import DataError

# Small enough for the block's index arrays to stay in a core's cache, large enough to hide the cost of a call.
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
OTHER_MAGIC = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    ZSTD_MAGIC: "a zstd file",
    b"PAR1": "a Parquet file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"\x93NUMPY": "a NumPy file",
}


def line_blocks(path: str) -> Iterator[bytes]:
    """The file's bytes in blocks that each end with a newline (which is added to the last line where it lacks).

    Args:
        path: a plain or gzip file; several gzip members count as one stream.

    Raises:
        DataError: the file cannot be opened or read, is empty, is of another kind, is cut off or damaged (gzip), or
            has a line longer than :data:`MAX_LINE_BYTES`.
    """
    lines = 0
    rest = b""
    for block in _blocks(path):
        end = block.rfind(b"\n") + 1
        if end:
            whole_lines = rest + block[:end]
            lines += whole_lines.count(b"\n")
            yield whole_lines
            rest = b""
        rest += block[end:]
        if len(rest) > MAX_LINE_BYTES:
            problem = f"the row is longer than {MAX_LINE_BYTES} bytes"
            raise DataError(path, problem, row=lines + 1, hint="rows must end with a newline; is this a text file?")
    if rest:
        yield rest + b"\n"
    elif not lines:
        raise DataError(path, "the file is empty", hint="remove it from data.paths or fetch it again")


def raise_if_damaged(path: str) -> None:
    """Read a gzip file to its end; of a plain file nothing can be said.

    A malformed row may be the consequence of a damaged file, which is then the mistake to report.

    Raises:
        DataError: as :func:`line_blocks`, for the file as a whole.
    """
    if not os.path.isfile(path):  # a pipe cannot be read twice
        return
    with open(path, "rb") as file:
        if file.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            return
    for _ in _blocks(path):
        pass


def _blocks(path: str) -> Iterator[bytes]:
    """The file's decompressed bytes, in blocks of about :data:`BLOCK_BYTES`."""
    try:
        with open(path, "rb") as file:
            magic = file.peek(8)[:8]
            if magic.startswith(GZIP_MAGIC):
                yield from _gunzip(file, path)
                return
            for other, kind in OTHER_MAGIC.items():
                if magic.startswith(other):
                    raise DataError(path, f"is {kind}", hint="give the raw tab separated file, plain or gzip")
            while block := file.read(BLOCK_BYTES):
                yield block
    except FileNotFoundError:
        hint = "list the files, as patterns are for the shell or for preprocess" if glob.has_magic(path) else ""
        raise DataError(path, "no such file", hint=hint or "check data.paths") from None
    except IsADirectoryError:
        raise DataError(path, "is a directory", hint="name the files in it in data.paths") from None
    except PermissionError:
        raise DataError(path, "no permission to read it", hint="check the file's owner and mode") from None
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", hint="check the disk or mount") from error


def _gunzip(file: io.BufferedReader, path: str) -> Iterator[bytes]:
    again = "fetch the file again (gzip -t checks it)"
    pieces: list[bytes] = []
    size = lines = 0
    with gzip.GzipFile(fileobj=file, mode="rb") as stream:
        while True:
            try:
                # read1 gives what came before the damage; read would lose it.
                piece = stream.read1(BLOCK_BYTES)
            except EOFError:
                raise DataError(path, "the gzip data is cut off", row=lines + 1, hint=again) from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise DataError(path, f"the gzip data is damaged ({error})", hint=again) from error
            if not piece:
                break
            lines += piece.count(b"\n")
            pieces.append(piece)
            size += len(piece)
            if size >= BLOCK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)
