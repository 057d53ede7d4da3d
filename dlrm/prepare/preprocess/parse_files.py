"""The first step: the text of the raw files, parsed, a file of rows for every chunk."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

from dlrm.errors import DataError
from dlrm.prepare.preprocess.crew import Crew, StoppedError
from dlrm.prepare.preprocess.parse import parse_chunk
from dlrm.prepare.preprocess.raw_chunk import read_counts, write_raw_chunk
from dlrm.prepare.preprocess.setting import Setting, Source
from dlrm.prepare.preprocess.sources import TextChunk, first_row, text_chunks
from dlrm.prepare.preprocess.work_folder import read_json, write_json

_TEXTS_AHEAD = 2


def parse_files(setting: Setting) -> None:
    """Parse this rank's files, as far as that was not done before.

    A thread for each of a few files reads (and decompresses) chunks, which a crew parses. At most ``threads + 2`` chunks
    of text are in memory.

    Raises:
        DataError: a file cannot be read, was changed, or has a malformed row; of several errors an early one.
    """
    files = [file for file in setting.own_files if not _is_parsed(setting, file)]
    text_bytes = [setting.sources[file].extent.text_bytes for file in setting.own_files]
    setting.progress.step("parse", sum(text_bytes), sum(text_bytes) - sum(_text_left(setting, file) for file in files))
    stop = threading.Event()
    texts = threading.Semaphore(setting.threads + _TEXTS_AHEAD)
    readers = max(1, min(len(files), (setting.threads + 1) // 2))
    with Crew(setting.threads, stop) as parsers, Crew(readers, stop) as crew:
        for _ in crew.each(partial(_File(setting, file, parsers, texts).parse) for file in files):
            pass


def _is_parsed(setting: Setting, file: int) -> bool:
    """Whether all chunks of a file are there, or were."""
    counts = setting.work.counts(file)
    return counts.exists() and all(setting.work.has_raw(file, k) for k in range(len(read_json(counts))))


def _text_left(setting: Setting, file: int) -> int:
    """About how many bytes of a file's text are not parsed."""
    text_bytes = setting.sources[file].extent.text_bytes
    chunks = range(-(-text_bytes // setting.chunk_bytes))
    return max(0, text_bytes - setting.chunk_bytes * sum(setting.work.has_raw(file, k) for k in chunks))


class _File:
    """A file that is being parsed."""

    def __init__(self, setting: Setting, number: int, parsers: Crew, texts: threading.Semaphore) -> None:
        self._setting, self._number = setting, number
        self._source = setting.sources[number]
        self._parsers, self._texts = parsers, texts
        self._num_chunks = 0

    def parse(self) -> None:
        """Parse the chunks that are not there, then write down what all of them hold."""
        work = self._setting.work
        work.raw(self._number, 0).parent.mkdir(parents=True, exist_ok=True)
        _check_unchanged(self._source)
        pending: deque[Future[None]] = deque()
        for chunk in self._chunks():
            pending.append(self._parsers.submit(partial(self._parse_chunk, chunk)))
            while pending and pending[0].done():
                pending.popleft().result()
        for future in pending:
            future.result()
        _check_unchanged(self._source)
        if not work.counts(self._number).exists():
            counts = [read_counts(work.raw(self._number, k)) for k in range(self._num_chunks)]
            write_json(work.counts(self._number), [[c.rows, c.clicks, c.skipped_rows, c.missing] for c in counts])

    def _chunks(self) -> Iterator[TextChunk]:
        """The chunks that are not there; each is read when there is room for it."""
        chunks = text_chunks(self._source.file, self._setting.chunk_bytes, self._wanted)
        while True:
            while not self._texts.acquire(timeout=0.1):
                if self._parsers.stop.is_set():
                    raise StoppedError
            chunk = None
            try:
                chunk = next(chunks, None)
            finally:
                if chunk is None:
                    self._texts.release()
            if chunk is None:
                return
            yield chunk

    def _wanted(self, chunk: int) -> bool:
        self._num_chunks = chunk + 1
        return not self._setting.work.has_raw(self._number, chunk)

    def _parse_chunk(self, text: TextChunk) -> None:
        try:
            if self._parsers.stop.is_set():
                raise StoppedError
            rows = parse_chunk(text.lines, self._setting.config, where=partial(self._where, text.index))
            write_raw_chunk(self._setting.work.raw(self._number, text.index), rows)
        finally:
            self._texts.release()
        self._setting.progress.advance(len(text.lines))

    def _where(self, chunk: int, line: int) -> tuple[str, int]:
        file = self._source.file
        return file.path, first_row(file, self._setting.chunk_bytes, chunk) + line


def _check_unchanged(source: Source) -> None:
    now = os.stat(source.file.path)
    if (now.st_size, now.st_mtime_ns) != (source.file.bytes, source.mtime_ns):
        problem = "has changed since the job began"
        raise DataError(source.file.path, problem, mend="leave the input alone, and start over (overwrite=true)")
