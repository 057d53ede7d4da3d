"""The last step: the parts of the data set, put together from chunks and, where rows are shuffled, from buckets.

Parts are written one after the other, each by all threads; one that was interrupted is written anew. When a part is
finished, the room of parsed rows that no other part needs is reclaimed: shuffled rows lie by bucket in their chunks, so
the last parts are written first, and chunks get shorter from their ends. That nearly halves the disk that a shuffle takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial

import numpy as np

from dlrm.data.packed.manifest import PartRecord
from dlrm.data.packed.split import Part
from dlrm.data.packed.write import PartWriter
from dlrm.preprocess.encode import Encoder
from dlrm.preprocess.job_context import JobContext, reclaims
from dlrm.preprocess.records import Columns, Int64s
from dlrm.preprocess.row_plan import Copy, Draw, RowPlan
from dlrm.preprocess.shuffle import Buckets, chunk_file, chunk_rows
from dlrm.preprocess.work_folder import read_json, write_json
from dlrm.preprocess.worker_pool import WorkerPool

_BLOCK_ROWS = 1 << 16  # that are encoded at a time


def write_parts(job: JobContext, encoder: Encoder, plan: RowPlan) -> None:
    """Write this rank's parts, as far as they are not finished.

    Raises:
        DataError: parsed rows are gone or damaged.
        OSError: the disk is full or fails.
    """
    own = [plan.parts[i] for i in job.own([part.rows for part in plan.parts])]
    todo = [part for part in own if not job.work.record(part.name).exists()]
    total = sum(part.rows for part in own)
    job.progress.step("write", total, total - sum(part.rows for part in todo))
    buckets = Buckets(job, plan) if plan.shuffled and todo else None
    draws = plan.draws(buckets.rows) if buckets is not None else []
    for part in reversed(todo):
        pieces: list[Copy | Draw] = [*plan.copies(part.name), *(draw for draw in draws if draw.part == part.name)]
        _write_part(job, encoder, part, pieces, buckets)
        for chunk in plan.within(part.name):
            chunk_file(job, chunk).keep(0)
        if buckets is not None and reclaims(job.config, job.world_size):
            unfinished = {part.name for part in plan.parts if not job.work.record(part.name).exists()}
            buckets.keep(1 + max((draw.bucket for draw in draws if draw.part in unfinished), default=-1))


def part_record(job: JobContext, part: Part) -> PartRecord:
    """A finished part's entry in the manifest."""
    record: PartRecord = read_json(job.work.record(part.name), PartRecord)
    return record


def _write_part(
    job: JobContext, encoder: Encoder, part: Part, pieces: Sequence[Copy | Draw], buckets: Buckets | None
) -> None:
    clicks, missing_F = 0, np.zeros(job.config.num_sparse, np.int64)
    with closing(
        PartWriter(
            job.work.output,
            part.name,
            rows=part.rows,
            num_dense=job.config.num_dense,
            num_sparse=job.config.num_sparse,
            wide_ids=encoder.wide,
        )
    ) as writer:
        with WorkerPool(job.threads + 1) as pool:
            tasks = (partial(_write_piece, job, encoder, writer, piece, buckets) for piece in pieces)
            for piece, (clicks_there, missing_there_F) in zip(pieces, pool.each(tasks), strict=True):
                clicks += clicks_there
                missing_F += missing_there_F
                job.progress.advance(len(piece))
        missing = {f"cat_{f}": int(count) for f, count in enumerate(missing_F)}
        record = writer.finish(clicks=clicks, missing=missing)
    write_json(job.work.record(part.name), record.model_dump(mode="json", exclude_none=True))


def _write_piece(
    job: JobContext, encoder: Encoder, writer: PartWriter, piece: Copy | Draw, buckets: Buckets | None
) -> tuple[int, Int64s]:
    """Write a piece; how many of its rows have label 1, and int64 (F,), how many have each category missing."""
    if isinstance(piece, Copy):
        records_R = chunk_rows(job, piece.chunk)
        first = piece.chunk.rows.start
        from_M = np.arange(piece.rows.start - first, piece.rows.stop - first)
    else:
        if buckets is None:
            raise ValueError("rows are drawn, but not shuffled")
        records_R, order_R = buckets.read(piece.bucket)
        from_M = order_R[piece.skip : piece.skip + piece.count]
    clicks, missing_F = 0, np.zeros(job.config.num_sparse, np.int64)
    for start in range(0, len(piece), _BLOCK_ROWS):
        columns = Columns.of(np.take(records_R, from_M[start : start + _BLOCK_ROWS]))
        ids_MF = encoder.encode(columns.categories_FM, columns.missing_FM)
        writer.write(piece.start + start, columns.dense_MN, ids_MF, columns.labels_M)
        clicks += int(np.count_nonzero(columns.labels_M))
        missing_F += np.count_nonzero(columns.missing_FM, axis=1)
    return clicks, missing_F
