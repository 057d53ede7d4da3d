"""The raw files to preprocess, and their text in chunks of whole lines.

A file is plain, gzip or zstd, which its first bytes say and not its name. Its *text* is what it holds decompressed. Chunk
k of a text consists of the lines that start in bytes k * chunk_bytes .. (k + 1) * chunk_bytes - 1 of it, so that chunks do
not depend on how a file is compressed, on who reads it or on which chunks were read before. The *part* of a file is its
name without what says how it is stored: ``day_0.gz`` is ``day_0``.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from dlrm.data.file_names import LEFT_OUT, is_data, matching_data, some_names
from dlrm.data.packed.naming import check_numbers
from dlrm.data.raw.tsv_file import GZIP_MAGIC, MAX_LINE_BYTES, OTHER_MAGIC, ZSTD_MAGIC
from dlrm.errors import DataError

# Reads are small enough for a decompressor's output to stay in a core's cache: zstd gave 1.6 GB/s, at 32 MiB 1.0 GB/s.
READ_BYTES = 1 << 20
_FETCH_IT = "fetch its file, or list the files one by one if these are all that are meant"
_SUFFIX = re.compile(r"(\.(txt|tsv|csv))?(\.(gz|zst))?$")

Compression = Literal["none", "gzip", "zstd"]


@dataclass(frozen=True)
class SourceFile:
    """A raw file.

    Attributes:
        path: where it is; part: the part that it is.
        bytes: its size as it is stored; compression: what its first bytes say.
    """

    path: str
    part: str
    bytes: int
    compression: Compression


@dataclass(frozen=True)
class TextChunk:
    """Whole lines of a text.

    Attributes:
        index: k; lines: the lines, the last one with a newline even where the file lacks it; empty where a single line
            goes over the whole of the chunk's bytes.
    """

    index: int
    lines: bytes


def find_sources(input: Sequence[str]) -> tuple[SourceFile, ...]:
    """The files that are meant, in natural order of their parts (``day_2`` before ``day_10``).

    Args:
        input: files, patterns (``raw/day_*``) and folders, of which all files are meant. Folders inside a folder or among
            a pattern's matches are left out, and so is what is no data (:mod:`dlrm.data.file_names`).

    Raises:
        DataError: nothing is found, a file is empty, of another format or cannot be read, two files are one part, or
            among the numbered files of a folder or a pattern one is missing; files that are named one by one are those
            that are meant.
    """
    found = [[_source(path) for path in _paths(entry)] for entry in input]
    sources = sorted(itertools.chain.from_iterable(found), key=lambda s: _natural(s.part))
    for one, other in itertools.pairwise(sources):
        if one.part == other.part:
            mend = "give every part once: remove or rename one of the two"
            raise DataError(other.path, f"is the part {other.part}, which {one.path} is too", mend=mend)
    for entry, of_entry in zip(input, found, strict=True):  # a single file misses nothing
        check_numbers(entry, [s.part for s in of_entry], mend=_FETCH_IT, others=[s.part for s in sources])
    return tuple(sources)


def text_chunks(source: SourceFile, chunk_bytes: int, wanted: Callable[[int], bool]) -> Iterator[TextChunk]:
    """The chunks of a file's text.

    Args:
        source: the file.
        chunk_bytes: size of a chunk before it is extended to whole lines.
        wanted: whether chunk k is wanted, asked once for each chunk there is, in order; others are not yielded. Of a
            plain file they are not read, a compressed one has to be decompressed all the same.

    Raises:
        DataError: the file cannot be read, has no text, is cut off or damaged (compressed ones), has changed since
            :func:`find_sources` or while it is read, or has a line of more than
            :data:`~dlrm.data.raw.tsv_file.MAX_LINE_BYTES`.
    """
    with _errors_of(source.path), _text(source) as text:
        stamp = os.stat(source.path)
        if stamp.st_size != source.bytes:
            problem = f"has {stamp.st_size} bytes, but had {source.bytes} at first"
            raise DataError(source.path, problem, mend="leave the input alone while it is read")
        lines = _Lines(source, text)
        if lines.at_end:
            raise DataError(source.path, "the file is empty", mend="remove it from input or fetch it again")
        for index in itertools.takewhile(lambda _: not lines.at_end, itertools.count()):
            stop = (index + 1) * chunk_bytes
            chunk = None
            if wanted(index):
                chunk = TextChunk(index, lines.take(stop))
            else:
                lines.skip(stop)
            now = os.stat(source.path)
            if (now.st_size, now.st_mtime_ns) != (stamp.st_size, stamp.st_mtime_ns):
                raise DataError(source.path, "has changed while it was read", mend="leave it alone and run again")
            if chunk is not None:
                yield chunk


def first_row(source: SourceFile, chunk_bytes: int, index: int) -> int:
    """The 1-based row that a chunk starts at, for an error's sake: the text before the chunk is read to count its lines.

    A malformed row may be the consequence of a damaged file, which is then the mistake to report; so of a compressed
    file the rest is read as well.

    Raises:
        DataError: as :func:`text_chunks`.
    """
    with _errors_of(source.path):
        # The first line to start in the chunk follows the first newline at or behind the byte before the chunk.
        return _newlines(source, index * chunk_bytes - 1) + (2 if index else 1)


def _paths(entry: str) -> list[str]:
    path = Path(entry).expanduser()
    with _errors_of(entry):
        if path.is_dir():
            there = [p.name for p in path.iterdir() if not p.is_dir()]
            if not there:
                raise DataError(entry, "the folder holds no files", mend="check input")
            found = [str(path / name) for name in there if is_data(name)]
            if not found:
                raise DataError(
                    entry, f"the folder holds no data: {some_names(there)}", mend=f"{LEFT_OUT}; check input"
                )
            return found
        if path.exists() or path.is_symlink() or not glob.has_magic(entry):
            return [str(path)]
    there = [p for p in glob.glob(str(path), recursive=True) if not os.path.isdir(p)]
    if not there:
        raise DataError(entry, "the pattern matches no file", mend="check input, and quote patterns for the shell")
    found = matching_data(str(path), there)
    if not found:
        names = some_names([os.path.basename(p) for p in there])
        raise DataError(entry, f"the pattern matches no data: {names}", mend=f"{LEFT_OUT}; check input")
    return found


def _natural(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Sorts digits by the number that they are; the name itself decides where that leaves a tie (``1`` and ``01``)."""
    pieces = re.split(r"([0-9]+)", name)  # text and digits in turn
    return tuple((int(piece) if i % 2 else 0, piece if i % 2 == 0 else "") for i, piece in enumerate(pieces)), name


def _source(path: str) -> SourceFile:
    with _errors_of(path):
        if not os.path.isfile(path) and os.path.exists(path):
            raise DataError(path, "is no regular file", mend="give files: the input is read more than once")
        with open(path, "rb") as file:
            magic, size = file.read(8), os.fstat(file.fileno()).st_size
    if not size:
        raise DataError(path, "the file is empty", mend="remove it from input or fetch it again")
    name = os.path.basename(path)
    part = _SUFFIX.sub("", name) or name
    if "\\" in part or not part.isprintable():
        raise DataError(repr(path), "the name has characters that cannot name files everywhere", mend="rename the file")
    if magic.startswith((GZIP_MAGIC, ZSTD_MAGIC)):
        return SourceFile(path, part, size, "gzip" if magic.startswith(GZIP_MAGIC) else "zstd")
    for other, kind in OTHER_MAGIC.items():
        if magic.startswith(other):
            raise DataError(path, f"is {kind}", mend="give the raw tab separated file, plain, gzip or zstd")
    return SourceFile(path, part, size, "none")


class _Lines:
    """The text of a file, of which the next lines can be taken.

    Args:
        source: the file; text: of it, at the start.
    """

    def __init__(self, source: SourceFile, text: _Stream) -> None:
        self._source, self._text = source, text
        self._at = 0  # where the line starts that is next
        self._ahead = text.read(READ_BYTES)  # the text from there on, as far as it was read; empty at the end

    @property
    def at_end(self) -> bool:
        """Whether no line is left."""
        return not self._ahead

    def take(self, stop: int) -> bytes:
        """The lines that start before an offset of the text."""
        found = b"".join(self._pieces(stop))
        return found if found.endswith(b"\n") or not found else found + b"\n"

    def skip(self, stop: int) -> None:
        """Go behind the lines that start before an offset; the text of a plain file is not read."""
        if self._source.compression == "none" and self._at + len(self._ahead) < stop - 1:
            self._at = self._text.seek(stop - 1)
            self._ahead = self._text.read(READ_BYTES)
        for _ in self._pieces(stop):
            pass

    def _pieces(self, stop: int) -> Iterator[bytes]:
        """The text up to the first newline at or behind the byte before an offset."""
        found = self._at >= stop
        while not found and self._ahead:
            newline = self._ahead.find(b"\n", max(stop - 1 - self._at, 0))
            found = newline >= 0
            length = newline + 1 if found else len(self._ahead)
            yield self._ahead[:length]
            self._at += length
            self._ahead = self._ahead[length:] or self._text.read(READ_BYTES)
            if not found and self._at - stop >= MAX_LINE_BYTES:
                raise _overlong(self._source, stop)


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


@contextmanager
def _text(source: SourceFile) -> Iterator[_Stream]:
    """The text of a file, from the start."""
    if source.compression == "none":
        with open(source.path, "rb", buffering=0) as file:
            yield file
    else:
        # Takes concatenated members as one text, as gzip and zstd do, and works without the GIL.
        with pa.CompressedInputStream(pa.OSFile(source.path), source.compression) as stream:
            yield stream


def _newlines(source: SourceFile, stop: int) -> int:
    """Newlines before an offset of the text; a compressed file is read on to its end."""
    count = at = 0
    with _text(source) as stream:
        while (at < stop or source.compression != "none") and (piece := stream.read(READ_BYTES)):
            count += piece.count(b"\n", 0, max(stop - at, 0))
            at += len(piece)
    return count


def _overlong(source: SourceFile, offset: int) -> DataError:
    """The line that goes over an offset of the text has no end in sight."""
    row = _newlines(source, offset - 1) + 1
    problem = f"the row is longer than {MAX_LINE_BYTES} bytes"
    return DataError(source.path, problem, row=row, mend="rows must end with a newline; is this a text file?")


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """What the operating system and the decompressor say of a file, as errors of the data."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(path, "no such file", mend="check input") from None
    except PermissionError:
        raise DataError(path, "no permission to read it", mend="check the file's owner and mode") from None
    except OSError as error:
        if error.errno is not None:
            raise DataError(path, f"cannot be read ({error.strerror})", mend="check the disk or mount") from error
        cut_off = "truncated" in str(error).lower()  # the decompressor's words
        problem = "is cut off" if cut_off else f"is damaged ({str(error).splitlines()[0]})"
        mend = "fetch the file again (gzip -t or zstd -t checks it)"
        raise DataError(path, f"the compressed data {problem}", mend=mend) from error
