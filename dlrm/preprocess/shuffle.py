"""The out-of-core shuffle of the training rows.

Every row has a random *key*: 64 bits, a function of the seed, of its file's number and of its line there. The order of the
keys is the order of the training rows after the shuffle (where keys of rows are equal, theirs before it). A *bucket* is an
equal share of the keys, so rows know theirs before anybody has counted them: the rows of a chunk are written by
bucket, and a bucket is read from all chunks, a stretch of each, and put in order in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from dlrm.counter_rng import random_bits, stream_key
from dlrm.preprocess.job_context import JobContext
from dlrm.preprocess.records import Bools, Int64s, Records, UInt64s, record_type
from dlrm.preprocess.row_plan import Chunk, RowPlan
from dlrm.preprocess.sections import SectionFile

_STRETCH_ROWS = 100  # of a chunk in a bucket: 16 KiB, so that reading them all is no random access
_SMALL_BUCKET_ROWS = 1 << 16  # whose records are put in order in a core's third cache


def bucket_count(job: JobContext) -> int:
    """How many buckets there are, as far as can be told from the estimated number of rows; 1 without a shuffle.

    As many as chunks are long enough for, but small ones, unless a bucket outgrows ``bucket_rows``.
    """
    if not job.config.shuffle:
        return 1
    rows = sum(source.extent.rows for source in job.sources)
    text_bytes = sum(source.extent.text_bytes for source in job.sources)
    rows_of_a_chunk = max(1.0, rows * job.chunk_bytes / max(1, text_bytes))
    by_stretch = math.ceil(rows * _STRETCH_ROWS / rows_of_a_chunk)
    return max(1, math.ceil(rows / min(job.bucket_rows, max(_SMALL_BUCKET_ROWS, by_stretch))))


def row_keys(lines_M: Int64s, file: int, seed: int) -> UInt64s:
    """The keys of rows, uint64 (M,).

    Args:
        lines_M: int64 (M,), which line of their file they are, from 0 on.
        file: the number of the file.
        seed: of the shuffle.
    """
    key = stream_key(seed, "preprocess", "shuffle", file)
    return random_bits(key, torch.from_numpy(lines_M)).numpy().view(np.uint64)


class BucketAssignment(NamedTuple):
    """How rows are put by bucket, those of a bucket in their order.

    Attributes:
        order_M: int64 (M,), which row is the first, second, ... then.
        ends_B: int64 (buckets,), where the rows of each bucket end.
    """

    order_M: Int64s
    ends_B: Int64s

    @classmethod
    def of(cls, keys_M: UInt64s, buckets: int) -> BucketAssignment:
        """That of rows with some keys, to equal shares of the keys by their upper halves."""
        bucket_M = ((keys_M >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)
        narrow_M = bucket_M.astype(np.min_scalar_type(buckets))  # up to 16 bits numpy sorts by digits
        ends_B = np.cumsum(np.bincount(narrow_M, minlength=buckets))
        return cls(np.argsort(narrow_M, kind="stable"), ends_B)


def chunk_file(job: JobContext, chunk: Chunk) -> SectionFile:
    """The parsed rows of a chunk, by bucket."""
    return SectionFile(job.work.rows(chunk.file, chunk.index), record_type(job.config), bucket_count(job))


def chunk_rows(job: JobContext, chunk: Chunk) -> Records:
    """The parsed rows of a chunk in their order, (M,)."""
    file = chunk_file(job, chunk)
    stored_M = file.read_all()
    if not job.config.shuffle:
        return stored_M
    records_M = np.empty_like(stored_M)
    records_M[_stored_order(job, chunk, file.header)] = stored_M
    return records_M


def lines_of(rows: int, first_line: int, skipped_lines: Int64s) -> Int64s:
    """Which lines of their file the rows of a chunk are, int64 (M,).

    Args:
        rows: M.
        first_line: which line of its file the chunk begins with, from 0 on.
        skipped_lines: int64 (S,), ascending, lines of the chunk, counted from its first one, that were left out.
    """
    return np.delete(np.arange(first_line, first_line + rows + len(skipped_lines)), skipped_lines)


def _stored_order(job: JobContext, chunk: Chunk, header: Mapping[str, Any]) -> Int64s:
    """Which row of a chunk is stored first, second, ..., int64 (M,)."""
    skipped_lines = np.array(header["skipped_lines"], np.int64)
    lines_M = lines_of(len(chunk.rows), header["first_line"], skipped_lines)
    return BucketAssignment.of(row_keys(lines_M, chunk.file, job.config.seed), bucket_count(job)).order_M


@dataclass(frozen=True)
class _Source:
    """A chunk with training rows.

    Attributes:
        training_M: bool (M,), which of its rows, as they are stored, are; None if all are.
        ends_B: int64 (buckets,), where the rows of each bucket end; None if all are training rows.
    """

    file: SectionFile
    training_M: Bools | None
    ends_B: Int64s | None
    training_rows_B: Int64s

    @classmethod
    def of(cls, job: JobContext, plan: RowPlan, chunk: Chunk) -> _Source:
        file = chunk_file(job, chunk)
        rows_B = file.lengths()
        if not plan.is_mixed(chunk):
            return cls(file, None, None, rows_B)
        training_M = plan.is_training(chunk)[_stored_order(job, chunk, file.header)]
        before_M = np.concatenate([[0], np.cumsum(training_M)])  # training rows before each row
        ends_B = np.cumsum(rows_B)
        return cls(file, training_M, ends_B, before_M[ends_B] - before_M[ends_B - rows_B])

    def read(self, bucket: int, into: Records) -> int:
        """Read the training rows of a bucket to the beginning of an array; how many there are."""
        if self.training_M is None or self.ends_B is None:
            return len(self.file.read(bucket, into=into))
        stored = self.file.read(bucket)
        end = int(self.ends_B[bucket])
        found = stored[self.training_M[end - len(stored) : end]]
        into[: len(found)] = found
        return len(found)


class Buckets:
    """All buckets of a job; several threads can read them at the same time.

    Attributes:
        rows: how many training rows each has.

    Raises:
        DataError: a chunk is gone or damaged; from every method.
    """

    def __init__(self, job: JobContext, plan: RowPlan) -> None:
        self._dtype = record_type(job.config)
        self._sources = []
        total_B = np.zeros(bucket_count(job), np.int64)
        for chunk in plan.chunks:
            if any(plan.training(chunk.rows)):
                source = _Source.of(job, plan, chunk)
                self._sources.append(source)
                total_B += source.training_rows_B
        self.rows = [int(count) for count in total_B]

    def read(self, bucket: int) -> tuple[Records, Int64s]:
        """The training rows of a bucket, and which of them is the first, second, ... after the shuffle."""
        records_R = np.empty(self.rows[bucket], self._dtype)
        filled = 0
        for source in self._sources:
            filled += source.read(bucket, records_R[filled:])
        return records_R, np.argsort(records_R["key"], kind="stable")

    def keep(self, buckets: int) -> None:
        """Give back the room of all but the first so many buckets, but for chunks that hold other rows as well."""
        for source in self._sources:
            if source.training_M is None:
                source.file.keep(buckets)
