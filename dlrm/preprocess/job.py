"""``preprocess``: raw Criteo files into a packed data set, in bounded memory, as often interrupted as need be.

The steps are parse (which puts rows that are shuffled by bucket), plan, vocabularies and write; each leaves files by which
a later run of the same command knows what is done (:mod:`dlrm.preprocess.work_folder`). The bytes of the output depend on
the parameters and the rows only, not on interruptions, threads, ranks, chunks, buckets or how the raw files are compressed.

With several ranks each parses its own files and writes its own vocabularies and parts, in one folder that all of them see.
Between steps the ranks wait for each other, for hours if one has more to do: collectives have a week.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from dlrm.config.prepare import ContiguousVocabulary, PreprocessConfig
from dlrm.data.packed.manifest import Manifest, SparseRecord, split_records
from dlrm.data.packed.write import file_record, write_manifest
from dlrm.distributed.collectives import Collectives, from_rank_0, together
from dlrm.distributed.world import RankInfo, joined_world
from dlrm.errors import DataError, DlrmError
from dlrm.files import seen
from dlrm.preprocess.encode import Encoder
from dlrm.preprocess.fixed_vocabulary import adopt, check_vocabularies, copy_vocabularies
from dlrm.preprocess.job_context import JobContext, Source, check_room, disk_errors, extent_of, peak_bytes
from dlrm.preprocess.job_state import State, begin, finished_output, parameters, source_records
from dlrm.preprocess.overwrite import data_set_files, make_way
from dlrm.preprocess.parse_files import parse_files
from dlrm.preprocess.row_plan import RowPlan, check_split, estimated_parts, plan_rows, read_counts
from dlrm.preprocess.sources import find_sources
from dlrm.preprocess.vocabularies import forget_values, keep_training_values, write_vocabularies
from dlrm.preprocess.work_folder import ChunkCounts, WorkFolder, locked
from dlrm.preprocess.write_parts import part_record, write_parts
from dlrm.progress import duration, shown_progress

T = TypeVar("T")

_WEEK_S = 7 * 24 * 3600.0
# glibc's M_ARENA_MAX, M_MMAP_THRESHOLD (larger ones it refuses), M_TRIM_THRESHOLD (never)
_MALLOC_OPTIONS = ((-8, 1), (-3, 32 << 20), (-1, 2**31 - 1))


def run_preprocess(config: PreprocessConfig) -> None:
    """Preprocess as one rank of the job that the launcher has started, or alone.

    Raises:
        ConfigError, DataError, SetupError: what the user can mend; on several ranks the same on each.
    """
    torch.set_num_threads(1)  # of each of the job's own
    _keep_freed_memory()
    patient = max(config.distributed.timeout_s, _WEEK_S)
    distributed = config.distributed.model_copy(update={"device": "cpu", "timeout_s": patient})
    with joined_world(distributed) as world:
        preprocess(config, world.collectives, chunk_bytes=config.chunk_mib << 20)


def _keep_freed_memory() -> None:
    """Have glibc keep freed arrays for later ones, in one arena for all threads: a tenth of the processor time.

    Chunks and buckets are arrays of some megabytes that come and go, and pages that come anew are filled with zeros first.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS:
            mallopt(option, value)


def preprocess(config: PreprocessConfig, collectives: Collectives, *, chunk_bytes: int) -> None:
    """Preprocess with chunks of any size; otherwise as :func:`run_preprocess`."""
    config = together(collectives, partial(adopt, config))
    work = WorkFolder(Path(config.output).expanduser())
    with shown_progress(collectives.rank == 0) as progress, ExitStack() as lock:
        begun = from_rank_0(collectives, partial(_begin, config, work, lock, chunk_bytes, collectives.world_size))
        if begun is None:
            progress.say(f"{config.output} is complete already")
            return
        together(collectives, partial(_see_token, work, begun.token))
        job = JobContext(
            config=config,
            work=work,
            sources=begun.sources,
            chunk_bytes=begun.state.chunk_bytes,
            bucket_rows=begun.state.bucket_rows,
            rank=collectives.rank,
            world_size=collectives.world_size,
            threads=config.workers or RankInfo.from_environment().cores,
            progress=progress,
        )
        _run_steps(job, collectives)


@dataclass(frozen=True)
class _Begun:
    """What rank 0 has found and tells the others."""

    sources: tuple[Source, ...]
    state: State
    token: str


def _begin(config: PreprocessConfig, work: WorkFolder, lock: ExitStack, chunk_bytes: int, ranks: int) -> _Begun | None:
    """Rank 0's preparations; None if the output is complete."""
    if work.output.exists() and not work.output.is_dir():
        raise DataError(str(work.output), "is a file, where a folder is needed", hint="choose another output")
    with disk_errors(work.output):
        sources = _find(config, work.output)
        if finished_output(config, sources, work.output) is not None and not work.path.exists():
            return None
        work.output.mkdir(parents=True, exist_ok=True)
        lock.enter_context(locked(work))
        if finished_output(config, sources, work.output) is not None:  # a job ended, or was interrupted, since then
            _tidy_up(config, work)
            return None
        try:
            parts = estimated_parts(config, sources)
            if config.split.train or not config.vocabulary_from:
                check_split(config.split, parts)
            check_vocabularies(config)
            check_room(work.output, peak_bytes(config, [part.rows for part in parts], ranks=ranks))
            state = begin(config, sources, work, chunk_bytes)
        except DlrmError:
            if not work.state.exists() and not (work.own_names.exists() and data_set_files(work)):
                # Nothing of it is this job's, and nothing is left that a job has noted as its own.
                work.remove()
            raise
        token = secrets.token_hex()
        (work.path / "token").write_text(token)
        return _Begun(sources, state, token)


def _find(config: PreprocessConfig, output: Path) -> tuple[Source, ...]:
    files = find_sources(config.input)
    work = WorkFolder(output).path.resolve()
    for file in files:
        path = Path(file.path).resolve()
        if path.parent == output.resolve() or work in path.parents:
            raise DataError(file.path, "is in the folder of the output", hint="choose another output")
    return tuple(Source(file, os.stat(file.path).st_mtime_ns, extent_of(file)) for file in files)


def _see_token(work: WorkFolder, token: str) -> None:
    """Make sure that the output's folder is the same one on every rank.

    Raises:
        DataError: it is not.
    """
    path = work.path / "token"
    if not seen(lambda: path.exists() and path.read_text() == token):
        problem = f"host {socket.gethostname()} does not see what rank 0 writes there"
        raise DataError(str(work.output), problem, hint="choose an output that all hosts share")


def _run_steps(job: JobContext, collectives: Collectives) -> None:
    began_s = time.monotonic()

    def on_every_rank(step: Callable[[], T]) -> T:
        return together(collectives, disk_errors(job.work.output)(step))

    on_every_rank(partial(parse_files, job))
    counts, plan = on_every_rank(partial(_plan, job))
    categories = job.config.categories
    if job.config.vocabulary_from:
        on_every_rank(partial(copy_vocabularies, job))
    elif isinstance(categories, ContiguousVocabulary):
        on_every_rank(partial(keep_training_values, job, categories, plan))
        on_every_rank(partial(write_vocabularies, job, categories, plan))
        on_every_rank(partial(forget_values, job))
    encoder = on_every_rank(partial(_encoder, job))
    on_every_rank(partial(write_parts, job, encoder, plan))
    finish = partial(_finish, job, counts, plan, encoder)
    manifest = from_rank_0(collectives, disk_errors(job.work.output)(finish))
    job.progress.close()
    job.progress.say(_summary(job, manifest, time.monotonic() - began_s))


def _plan(job: JobContext) -> tuple[list[list[ChunkCounts]], RowPlan]:
    """What was counted in each chunk of each file, and the plan for it.

    With that the new input is known to do, so a data set that it replaces makes way here.
    """
    counts = [read_counts(job, file) for file in range(len(job.sources))]
    plan = plan_rows(job, counts)
    if job.rank == 0:
        make_way(job.work)
    return counts, plan


def _encoder(job: JobContext) -> Encoder:
    config = job.config
    vocabularies = None
    if isinstance(config.categories, ContiguousVocabulary):
        vocabularies = [
            np.load(job.work.vocabulary(f), mmap_mode="r", allow_pickle=False) for f in range(config.num_sparse)
        ]
    return Encoder(config.categories, vocabularies, num_sparse=config.num_sparse)


def _finish(job: JobContext, counts: Sequence[Sequence[ChunkCounts]], plan: RowPlan, encoder: Encoder) -> Manifest:
    """Write the manifest, with which the data set is complete, and remove the intermediate files."""
    config, output = job.config, job.work.output
    sources = source_records([source.file for source in job.sources])
    for record, of_file in zip(sources, counts, strict=True):
        missing: Counter[str] = Counter()
        for count in of_file:
            missing.update(count.missing)
        skipped = sum(count.skipped_rows for count in of_file)
        record.update(rows=sum(count.rows for count in of_file), rows_skipped=skipped, missing=dict(missing))
    vocabularies = {}
    if isinstance(config.categories, ContiguousVocabulary):
        paths = [job.work.vocabulary(f) for f in range(config.num_sparse)]
        vocabularies = {path.stem: file_record(path, output) for path in paths}
    manifest = Manifest(
        dense=tuple(f"int_{n}" for n in range(config.num_dense)),
        sparse=tuple(SparseRecord(name=f"cat_{f}", rows=rows) for f, rows in enumerate(encoder.rows)),
        parts=tuple(part_record(job, part) for part in plan.parts),
        split=split_records(plan.split),
        preprocessing={"parameters": parameters(config), "sources": sources},
        vocabularies=vocabularies,
    )
    write_manifest(output, manifest)
    _tidy_up(config, job.work)
    return manifest


def _tidy_up(config: PreprocessConfig, work: WorkFolder) -> None:
    if not config.keep_work:
        work.remove()


def _summary(job: JobContext, manifest: Manifest, seconds: float) -> str:
    rows = sum(part.rows for part in manifest.parts)
    skipped = sum(source["rows_skipped"] for source in manifest.preprocessing["sources"])
    left_out = f", {skipped:,} malformed rows left out" if skipped else ""
    return f"{rows:,} rows in {len(manifest.parts)} parts{left_out} in {duration(seconds)}: {job.work.output}"
