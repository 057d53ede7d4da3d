"""The first step: the text of the raw files, parsed, a file of rows for every chunk and one of the values in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from dlrm.config.prepare import ContiguousVocabulary
from dlrm.errors import DataError
from dlrm.preprocess.job_context import JobContext, Source
from dlrm.preprocess.parse import ParsedChunk, count_lines, parse_chunk
from dlrm.preprocess.records import record_type
from dlrm.preprocess.row_plan import read_counts
from dlrm.preprocess.sections import SectionFile, write_sections
from dlrm.preprocess.shuffle import BucketAssignment, bucket_count, lines_of, row_keys
from dlrm.preprocess.sources import TextChunk, first_row, text_chunks
from dlrm.preprocess.vocabularies import write_values
from dlrm.preprocess.work_folder import write_json
from dlrm.preprocess.worker_pool import StoppedError, WorkerPool

_TEXTS_AHEAD = 2


def parse_files(job: JobContext) -> None:
    """Parse this rank's files, as far as that was not done before.

    A thread for each of a few files reads (and decompresses) texts, which a pool parses. At most ``threads + 2`` texts
    are in memory.

    Raises:
        DataError: a file cannot be read, was changed, or has a malformed row; of several errors an early one.
    """
    files = [file for file in job.own_files if not _is_parsed(job, file)]
    total = sum(job.sources[file].extent.text_bytes for file in job.own_files)
    job.progress.step("parse", total, total - sum(_text_left(job, file) for file in files))
    stop = threading.Event()
    room = threading.Semaphore(job.threads + _TEXTS_AHEAD)
    readers = max(1, min(len(files), (job.threads + 1) // 2))
    with WorkerPool(job.threads, stop) as parsers, WorkerPool(readers, stop) as pool:
        for _ in pool.each(_FileParser(job, file, parsers, room).parse for file in files):
            pass


def _is_parsed(job: JobContext, file: int) -> bool:
    """Whether all chunks of a file are there."""
    work = job.work
    return work.counts(file).exists() and all(work.rows(file, k).exists() for k in range(len(read_counts(job, file))))


def _text_left(job: JobContext, file: int) -> int:
    """About how many bytes of a file's text are not parsed."""
    text_bytes = job.sources[file].extent.text_bytes
    chunks = range(-(-text_bytes // job.chunk_bytes))
    return max(0, text_bytes - job.chunk_bytes * sum(job.work.rows(file, k).exists() for k in chunks))


class _FileParser:
    """Parses a file."""

    def __init__(self, job: JobContext, file: int, parsers: WorkerPool, room: threading.Semaphore) -> None:
        self._job, self._file, self._source = job, file, job.sources[file]
        self._parsers, self._room = parsers, room
        self._buckets = bucket_count(job)
        self._chunks = 0
        self._next_line = 0

    def parse(self) -> None:
        """Parse the chunks that are not there, then write down what all of them hold."""
        counts = self._job.work.counts(self._file)
        counts.parent.mkdir(parents=True, exist_ok=True)
        _check_unchanged(self._source)
        for _ in self._parsers.each(self._tasks()):
            pass
        _check_unchanged(self._source)
        if not counts.exists():
            write_json(counts, [self._header(chunk)["counts"] for chunk in range(self._chunks)])

    def _tasks(self) -> Iterator[Callable[[], None]]:
        """What is to be done for each chunk that is not there; its text is read when there is room for it."""
        texts = text_chunks(self._source.file, self._job.chunk_bytes, self._is_wanted)
        while True:
            while not self._room.acquire(timeout=0.1):
                if self._parsers.stop.is_set():
                    raise StoppedError
            text = None
            try:
                text = next(texts, None)
            finally:
                if text is None:
                    self._room.release()
            if text is None:
                return
            num_lines = count_lines(text.lines)
            yield partial(self._parse_chunk, text, self._next_line, num_lines)
            self._next_line += num_lines

    def _is_wanted(self, chunk: int) -> bool:
        """Whether a chunk is to be parsed, asked for each in order; the lines of those that are not are counted here."""
        self._chunks = chunk + 1
        if not self._job.work.rows(self._file, chunk).exists():
            return True
        counts = self._header(chunk)["counts"]
        self._next_line += counts["rows"] + counts["skipped_rows"]
        return False

    def _header(self, chunk: int) -> dict[str, Any]:
        path = self._job.work.rows(self._file, chunk)
        return SectionFile(path, record_type(self._job.config), self._buckets).header

    def _parse_chunk(self, text: TextChunk, first_line: int, num_lines: int) -> None:
        try:
            if self._parsers.stop.is_set():
                raise StoppedError
            where = partial(self._where, text.index)
            self._write(
                text.index, first_line, parse_chunk(text.lines, self._job.config, where=where, num_lines=num_lines)
            )
        finally:
            self._room.release()
        self._job.progress.advance(len(text.lines))

    def _write(self, chunk: int, first_line: int, parsed: ParsedChunk) -> None:
        """Write the chunk's files, that of its rows last: with it the chunk is there."""
        config, work, records_M = self._job.config, self._job.work, parsed.records_M
        if isinstance(config.categories, ContiguousVocabulary) and not config.vocabulary_from:
            write_values(work.values(self._file, chunk), records_M, config.categories)
        ends_B = np.array([len(records_M)])
        if config.shuffle:
            keys_M = row_keys(lines_of(len(records_M), first_line, parsed.skipped_lines), self._file, config.seed)
            records_M["key"] = keys_M
            order_M, ends_B = BucketAssignment.of(keys_M, self._buckets)
            records_M = np.take(records_M, order_M)
        header = {
            "counts": asdict(parsed.counts),
            "first_line": first_line,
            "skipped_lines": parsed.skipped_lines.tolist(),
        }
        write_sections(work.rows(self._file, chunk), header, records_M, ends_B)

    def _where(self, chunk: int, line: int) -> tuple[str, int]:
        file = self._source.file
        return file.path, first_row(file, self._job.chunk_bytes, chunk) + line


def _check_unchanged(source: Source) -> None:
    now = os.stat(source.file.path)
    if (now.st_size, now.st_mtime_ns) != (source.file.bytes, source.mtime_ns):
        problem = "has changed since the job began"
        raise DataError(source.file.path, problem, hint="leave the input alone, and start over (overwrite=true)")
