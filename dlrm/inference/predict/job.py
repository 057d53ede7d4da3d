"""``predict``: probabilities of the rows of files, in bounded memory, as often interrupted as need be.

Ranks score blocks, each its own, and leave parts; when all have, rank 0 puts the parts together. They say nothing to each
other between: a rank that fails leaves a mark in the work folder, at which the others end as well.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from dlrm.config.predict import PredictConfig
from dlrm.config.run import DistributedConfig
from dlrm.distributed.collectives import Collectives, from_rank_0, together
from dlrm.distributed.world import RankInfo, joined_world
from dlrm.errors import DataError, DlrmError, ExportError
from dlrm.inference.exported.folder import ExportFolder, open_export
from dlrm.inference.exported.predictor import load_predictor, load_preprocessing
from dlrm.inference.predict.assemble import Outcome, assemble
from dlrm.inference.predict.find import carried_schema, open_inputs
from dlrm.inference.predict.inputs import Input
from dlrm.inference.predict.outputs import output_schema
from dlrm.inference.predict.score import Share, score
from dlrm.inference.predict.state import begin, note_whole, state_of
from dlrm.inference.predict.told import metrics_path, summary, write_metrics
from dlrm.inference.predict.work import WorkFolder, locked
from dlrm.preprocess.job_context import disk_errors
from dlrm.progress import Progress, shown_progress

_WEEK_S = 7 * 24 * 3600.0


def run_predict(config: PredictConfig) -> None:
    """Predict as one rank of the job that the launcher has started, or alone.

    Raises:
        ConfigError, DataError, ExportError, SetupError: what the user can mend; on several ranks the same on each.
    """
    # Ranks wait for the one that has most to do, and for the assembly; each thread of the job's own computes with one.
    with joined_world(DistributedConfig(device="cpu", timeout_s=_WEEK_S, threads_per_rank=1)) as world:
        predict(config, world.collectives)


@dataclass(frozen=True)
class _Begun:
    """What rank 0 has found and tells the others."""

    checksum: str
    chunk_rows: int
    token: str
    is_whole: bool


@dataclass(frozen=True)
class _Opened:
    """What each rank reads.

    Attributes:
        folder: the export; inputs: in order; schema: of the output.
    """

    folder: ExportFolder
    inputs: tuple[Input, ...]
    schema: pa.Schema


def predict(config: PredictConfig, collectives: Collectives) -> None:
    """See :func:`run_predict`."""
    began_s = time.monotonic()
    work = WorkFolder(Path(config.output))
    with shown_progress(collectives.rank == 0) as progress, ExitStack() as lock:
        begun = from_rank_0(collectives, disk_errors(work.output)(partial(_begin, config, work, lock)))
        if begun.is_whole:
            progress.say(f"{config.output} is complete already")
            return
        work = WorkFolder(work.output, begun.token, collectives.rank)
        opened = together(collectives, disk_errors(work.output)(partial(_open, config, work, begun)))
        scoring = partial(_score, config, work, opened, begun.chunk_rows, collectives=collectives, progress=progress)
        rows = together(collectives, disk_errors(work.output)(scoring))
        scored = sum(collectives.all_gather_object(rows))
        finishing = partial(_finish, config, work, opened, progress)
        outcome = from_rank_0(collectives, disk_errors(work.output)(finishing))
        progress.close()
        progress.say(summary(config, outcome, scored, time.monotonic() - began_s))


def _begin(config: PredictConfig, work: WorkFolder, lock: ExitStack) -> _Begun:
    """Rank 0's preparations."""
    if work.output.is_dir():
        raise DataError(str(work.output), "is a folder, where a file is needed", hint="choose another output")
    if work.output.is_symlink():  # which would be replaced, and what it leads to would stay as it was
        raise DataError(str(work.output), "is a link", hint="name the file itself")
    if not work.output.parent.is_dir():
        raise DataError(str(work.output.parent), "there is no such folder", hint="make it, or choose another output")
    folder = open_export(config.export)
    opened = _inputs(config, folder, config.chunk_rows)
    for item in opened.inputs:
        if os.path.exists(item.path) and work.output.exists() and os.path.samefile(item.path, work.output):
            raise DataError(item.path, "is input and output", hint="choose another output")
    lock.enter_context(locked(work))
    state = state_of(config, folder.checksum, opened.inputs)
    try:
        chunk_rows = begin(work, state, config.chunk_rows, overwrite=config.overwrite)
    except DlrmError:
        if not work.state.exists():  # nothing of a job is there
            work.remove()
        raise
    token = secrets.token_hex(8)
    if chunk_rows is None:
        work.remove()
    else:
        (work.path / "token").write_text(token)
    return _Begun(folder.checksum, chunk_rows or 0, token, chunk_rows is None)


def _open(config: PredictConfig, work: WorkFolder, begun: _Begun) -> _Opened:
    """What this rank reads: the same as rank 0."""
    work.see_token()
    folder = open_export(config.export)
    if folder.checksum != begun.checksum:
        raise ExportError(str(folder.path), "is not the export that rank 0 reads", hint="have all hosts share one")
    return _inputs(config, folder, begun.chunk_rows)


def _inputs(config: PredictConfig, folder: ExportFolder, rows_per_block: int) -> _Opened:
    inputs = open_inputs(config, load_preprocessing(folder), rows_per_block)
    tasks = folder.manifest.tasks
    schema = output_schema(config.ending, carried_schema(inputs), tasks, logits=config.logits)
    return _Opened(folder, inputs, schema)


def _score(
    config: PredictConfig,
    work: WorkFolder,
    opened: _Opened,
    chunk_rows: int,
    *,
    collectives: Collectives,
    progress: Progress,
) -> int:
    """Score this rank's share; how many rows that were."""
    threads = config.threads or RankInfo.from_environment().cores
    pa.set_cpu_count(threads)
    rank, world_size = collectives.rank, collectives.world_size
    share = Share(opened.inputs, work, rank, world_size, threads, config.bad_rows, chunk_rows)
    progress.step("score", share.rows, share.rows_done, unit="rows")
    predictor = cache(partial(load_predictor, opened.folder, compiled=config.compiled))
    return score(share, predictor, progress)


def _finish(config: PredictConfig, work: WorkFolder, opened: _Opened, progress: Progress) -> Outcome:
    """Put the output together and remove the parts."""

    def before_name(file: BinaryIO, outcome: Outcome) -> None:
        write_metrics(metrics_path(work.output), outcome)
        note_whole(work, file, state_of(config, opened.folder.checksum, opened.inputs))

    tasks = opened.folder.manifest.tasks
    outcome = assemble(
        config, work, opened.inputs, schema=opened.schema, tasks=tasks, progress=progress, before_name=before_name
    )
    try:
        work.remove()
    except OSError as error:  # the output is there all the same
        progress.say(f"{work.path} cannot be removed ({error.strerror}): remove it")
    return outcome
