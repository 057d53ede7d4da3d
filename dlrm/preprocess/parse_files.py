"""The first step: the text of the raw files, parsed, a file of rows for every chunk."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from dlrm.config.prepare import ContiguousVocabulary
from dlrm.errors import DataError
from dlrm.preprocess.arrays import Int64s
from dlrm.preprocess.chunk_file import ChunkReader, write_chunk
from dlrm.preprocess.crew import Crew, StoppedError
from dlrm.preprocess.memory import Scratch
from dlrm.preprocess.occurrences import Occurrences, write_values
from dlrm.preprocess.parse import count_newlines, parse_chunk
from dlrm.preprocess.raw_chunk import RawChunk
from dlrm.preprocess.records import Records
from dlrm.preprocess.setting import Setting, Source
from dlrm.preprocess.shuffle import Spread, bucket_count, row_keys, texts_per_chunk
from dlrm.preprocess.sources import first_row, text_chunks
from dlrm.preprocess.work_folder import FileCounts, read_json, write_json

_TEXTS_AHEAD = 2


def parse_files(setting: Setting) -> None:
    """Parse this rank's files, as far as that was not done before.

    A thread for each of a few files reads (and decompresses) texts, which a crew parses. At most ``threads + 2`` texts
    are in memory, and for each file that is read the rows of a chunk.

    Raises:
        DataError: a file cannot be read, was changed, or has a malformed row; of several errors an early one.
    """
    files = [file for file in setting.own_files if not _is_parsed(setting, file)]
    text_bytes = [setting.sources[file].extent.text_bytes for file in setting.own_files]
    setting.progress.step("parse", sum(text_bytes), sum(text_bytes) - sum(_text_left(setting, file) for file in files))
    stop = threading.Event()
    texts = threading.Semaphore(setting.threads + _TEXTS_AHEAD)
    readers = max(1, min(len(files), (setting.threads + 1) // 2))
    chunks = _Chunks(setting)
    with Crew(setting.threads, stop) as parsers, Crew(readers, stop) as crew:
        for _ in crew.each(partial(_File(setting, file, chunks, parsers, texts).parse) for file in files):
            pass


def _is_parsed(setting: Setting, file: int) -> bool:
    """Whether all chunks of a file are there, or were."""
    counts = setting.work.counts(file)
    return counts.exists() and all(setting.work.has_raw(file, k) for k in range(len(read_json(counts, FileCounts))))


def _text_left(setting: Setting, file: int) -> int:
    """About how many bytes of a file's text are not parsed."""
    text_bytes = setting.sources[file].extent.text_bytes
    chunk_bytes = setting.chunk_bytes * texts_per_chunk(setting)
    chunks = range(-(-text_bytes // chunk_bytes))
    return max(0, text_bytes - chunk_bytes * sum(setting.work.has_raw(file, k) for k in chunks))


class _Chunks:
    """Writes chunks: their rows by bucket, and what occurs in them."""

    def __init__(self, setting: Setting) -> None:
        config = setting.config
        self._work, self._seed = setting.work, config.seed
        self._buckets = bucket_count(setting)
        self.scratch = Scratch() if texts_per_chunk(setting) == 1 else None
        """Where a thread parses what it will write; None where chunks are parsed by several."""
        self._occurrences: Occurrences | None = None
        if isinstance(config.categories, ContiguousVocabulary):
            self._occurrences = Occurrences(config.categories, Records(config.num_dense, config.num_sparse))

    def spread(self, file: int, lines_M: Int64s) -> Spread:
        """How some lines of a file are spread over the buckets."""
        return Spread.of(row_keys(lines_M, file, self._seed), self._buckets)

    def write(self, file: int, index: int, chunk: RawChunk, spread: Spread | None) -> None:
        """Write the chunk's files, that of its rows last: with it the chunk is there.

        Args:
            file: of the chunk.
            index: of the chunk in its file.
            chunk: its rows.
            spread: how they were to be placed, if ``chunk.is_placed``.
        """
        if self._occurrences is not None:
            write_values(self._work.values(file, index), self._occurrences.of(chunk.records_MW))
        if spread is not None and chunk.is_placed:
            records_MW = chunk.records_MW
        else:
            spread = self.spread(file, chunk.lines())
            records_MW = spread.placed(chunk.records_MW)
        write_chunk(self._work.raw(file, index), chunk, records_MW, spread.ends_B)


@dataclass(frozen=True)
class _Text:
    """A text of a file: its lines, from line ``first_line`` of the file on, and how many; ``last`` of its chunk."""

    index: int
    lines: bytes
    first_line: int
    num_lines: int
    last: bool


class _Gathering:
    """The parsed texts of a chunk, as they come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parsed: dict[int, RawChunk] = {}
        self._expected: int | None = None

    def add(self, number: int, rows: RawChunk, *, last: bool) -> RawChunk | None:
        """Add the rows of a text of the chunk; the whole chunk once nothing is missing."""
        with self._lock:
            self._parsed[number] = rows
            if last:
                self._expected = number + 1
            if len(self._parsed) != self._expected:
                return None
        return RawChunk.joined([self._parsed.pop(number) for number in sorted(self._parsed)])


class _File:
    """A file that is being parsed."""

    def __init__(
        self, setting: Setting, number: int, chunks: _Chunks, parsers: Crew, texts: threading.Semaphore
    ) -> None:
        self._setting, self._number, self._chunks = setting, number, chunks
        self._source = setting.sources[number]
        self._parsers, self._texts = parsers, texts
        self._texts_per_chunk = texts_per_chunk(setting)
        self._num_texts = 0
        self._next_line = 0

    def parse(self) -> None:
        """Parse the chunks that are not there, then write down what all of them hold."""
        work = self._setting.work
        work.raw(self._number, 0).parent.mkdir(parents=True, exist_ok=True)
        _check_unchanged(self._source)
        pending: deque[Future[None]] = deque()
        gatherings: dict[int, _Gathering] = {}
        for text in self._wanted_texts():
            chunk = text.index // self._texts_per_chunk
            gathering = gatherings.setdefault(chunk, _Gathering())
            pending.append(self._parsers.submit(partial(self._parse_text, text, gathering)))
            if text.last:
                del gatherings[chunk]
            while pending and pending[0].done():
                pending.popleft().result()
        for future in pending:
            future.result()
        _check_unchanged(self._source)
        if not work.counts(self._number).exists():
            num_chunks = -(-self._num_texts // self._texts_per_chunk)
            counts = [ChunkReader(work.raw(self._number, k)).header.counts for k in range(num_chunks)]
            write_json(work.counts(self._number), [[c.rows, c.clicks, c.skipped_rows, c.missing] for c in counts])

    def _wanted_texts(self) -> Iterator[_Text]:
        """The texts of chunks that are not there; each is read when there is room for it."""
        texts = text_chunks(self._source.file, self._setting.chunk_bytes, self._wanted)
        while True:
            while not self._texts.acquire(timeout=0.1):
                if self._parsers.stop.is_set():
                    raise StoppedError
            text = None
            try:
                text = next(texts, None)
            finally:
                if text is None:
                    self._texts.release()
            if text is None:
                return
            num_lines = count_newlines(np.frombuffer(text.lines, np.uint8))
            last = text.last or (text.index + 1) % self._texts_per_chunk == 0
            yield _Text(text.index, text.lines, self._next_line, num_lines, last)
            self._next_line += num_lines

    def _wanted(self, text: int) -> bool:
        """Whether a text is wanted, asked for one after the other; the lines of those that are not are counted here."""
        self._num_texts = text + 1
        chunk = text // self._texts_per_chunk
        if not self._setting.work.has_raw(self._number, chunk):
            return True
        if text % self._texts_per_chunk == 0:
            self._next_line += self._lines_of(chunk)
        return False

    def _lines_of(self, chunk: int) -> int:
        """The lines of a chunk that was parsed."""
        counts = self._setting.work.counts(self._number)
        if counts.exists():
            rows, _, skipped, _ = read_json(counts, FileCounts)[chunk]
            return int(rows) + int(skipped)
        found = ChunkReader(self._setting.work.raw(self._number, chunk)).header.counts
        return found.rows + found.skipped_rows

    def _parse_text(self, text: _Text, gathering: _Gathering) -> None:
        try:
            if self._parsers.stop.is_set():
                raise StoppedError
            spread = None
            if self._chunks.scratch is not None:
                spread = self._chunks.spread(self._number, text.first_line + np.arange(text.num_lines))
            rows = parse_chunk(
                text.lines,
                self._setting.config,
                where=partial(self._where, text.index),
                num_lines=text.num_lines,
                first_line=text.first_line,
                scratch=self._chunks.scratch,
                places_M=None if spread is None else spread.places_M,
            )
            chunk, number = divmod(text.index, self._texts_per_chunk)
            whole = gathering.add(number, rows, last=text.last)
            if whole is not None:
                self._chunks.write(self._number, chunk, whole, spread)
        finally:
            self._texts.release()
        self._setting.progress.advance(len(text.lines))

    def _where(self, text: int, line: int) -> tuple[str, int]:
        file = self._source.file
        return file.path, first_row(file, self._setting.chunk_bytes, text) + line


def _check_unchanged(source: Source) -> None:
    now = os.stat(source.file.path)
    if (now.st_size, now.st_mtime_ns) != (source.file.bytes, source.mtime_ns):
        problem = "has changed since the job began"
        raise DataError(source.file.path, problem, mend="leave the input alone, and start over (overwrite=true)")
