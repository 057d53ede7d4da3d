"""``dlrm_main.py synthesize``: profile how ids repeat in a packed data set, and write one whose ids repeat like a profile.

The profile is a small file without any id of the data (:mod:`dlrm.data.synthetic.trace_profile`), so that it can be given
away where the data cannot. What is written is what ``data.kind=random`` with ``ids.kind=trace`` trains on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dlrm.config.data import RandomData
from dlrm.config.prepare import SynthesizeConfig
from dlrm.data.packed.folder import PackedFolder, PackedPart, open_packed
from dlrm.data.packed.manifest import MANIFEST_NAME, SUFFIXES, Manifest, PartRecord, SparseRecord, split_records
from dlrm.data.packed.naming import read_manifest
from dlrm.data.packed.own import find_data
from dlrm.data.packed.remote import is_remote
from dlrm.data.packed.split import ResolvedSplit, Span
from dlrm.data.packed.write import PartWriter, sha256_of, write_manifest
from dlrm.data.synthetic.noise import NoiseSource
from dlrm.data.synthetic.trace import TraceStream
from dlrm.data.synthetic.trace_profile import (
    MOST_REFERENCES,
    ColumnProfile,
    TraceProfile,
    is_profile,
    profile_column,
    read_profile,
    write_profile,
)
from dlrm.errors import ConfigError, DataError
from dlrm.files import UNFINISHED
from dlrm.format import escaped, printable

_PART = "trace"
_ROWS_AT_A_TIME = 1 << 17
_THREADS = min(4, os.cpu_count() or 1)  # each takes a column, of which it holds all references when it profiles
_CACHE_ROWS = (100, 1_000, 10_000, 100_000)


def run_synthesize(config: SynthesizeConfig) -> None:
    """Profile ``config.source`` into ``config.profile``, and write ``config.output`` from it; either can be left out.

    Raises:
        ConfigError: both are left out, the output is there already or something else in its place, or the table sizes do
            not fit.
        DataError: the data set or the profile cannot be read or written.
    """
    if not (config.source or config.output):
        raise ConfigError.at("source", "give a data set to profile, or with output a folder to write to, or both")
    console = Console(highlight=False, width=None if os.isatty(1) else 120)
    _check_output(config)
    if config.source:
        profile = profile_packed(config, console)
        write_profile(profile, config.profile)
        console.print(profile_table(profile))
        console.print(f"profile written: {printable(config.profile)}", markup=False)
    else:
        profile = read_profile(config.profile)
    if config.output:
        write_packed(config, profile, console)
        console.print(f"data set written: {printable(config.output)}", markup=False)


def profile_packed(config: SynthesizeConfig, console: Console) -> TraceProfile:
    """The profiles of all columns of a packed data set's training rows, in memory of about 40 bytes an id and thread.

    Raises:
        ConfigError: the data set does not say how large its tables are, nor does the configuration.
        DataError: it cannot be read, has no rows, or has an id outside of its table.
    """
    folder = _open(config)
    spans = _training_rows(folder, min(config.max_ids, MOST_REFERENCES))
    if not spans:
        raise DataError(config.source, "has no training rows to profile")
    features = folder.schema.sparse
    columns: list[ColumnProfile] = []
    with _progress(console) as progress, ThreadPoolExecutor(_THREADS) as threads:
        task = progress.add_task("columns profiled", total=len(features))
        for first in range(0, len(features), _THREADS):
            group = features[first : first + _THREADS]
            streams_FM = _read_columns(folder, spans, first, len(group))
            jobs = [
                threads.submit(profile_column, feature.name, feature.rows, ids_M)
                for feature, ids_M in zip(group, streams_FM, strict=True)
            ]
            for job in jobs:
                columns.append(job.result())
                progress.advance(task)
    return TraceProfile(tuple(columns))


def profile_table(profile: TraceProfile) -> Table:
    """What a person wants to know of a profile; LRU hit rates count cold references as misses."""
    table = Table(title="How ids repeat: stack distances, and hit rates of LRU caches of so many rows")
    table.add_column("column")
    for heading in ("table rows", "references", "distinct", "cold", "median", "p90"):
        table.add_column(heading, justify="right")
    for size in _CACHE_ROWS:
        table.add_column(f"{size:,}", justify="right")
    for column in profile.columns:
        table.add_row(
            Text(escaped(column.name)),
            *(f"{count:,}" for count in (column.rows, column.references, column.distinct)),
            f"{column.distinct / column.references:.2%}",
            *(f"{column.reuse_quantile(share):,}" for share in (0.5, 0.9)),
            *(f"{column.hit_rate(size):.1%}" for size in _CACHE_ROWS),
        )
    return table


def write_packed(config: SynthesizeConfig, profile: TraceProfile, console: Console) -> None:
    """Write one part: its first rows for training, a tenth for validation and a tenth for test.

    Memory does not grow with the number of samples, only with the rows in use.

    Raises:
        ConfigError: a table is too large.
        DataError: the folder cannot be written to.
    """
    rows = _table_rows(config, profile)
    source = NoiseSource(
        RandomData(
            train_samples=config.samples,
            num_dense=config.num_dense,
            rows=rows,
            click_rate=config.click_rate,
            seed=config.seed,
        ),
        "train",
    )
    streams = [
        TraceStream(profile.columns[table % len(profile.columns)], rows=size, seed=config.seed, table=table)
        for table, size in enumerate(rows)
    ]
    folder = Path(config.output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _progress(console) as progress:
            record = _write_part(folder, config.samples, source, streams, progress)
        manifest = Manifest(
            dense=source.schema.dense,
            sparse=tuple(SparseRecord(name=feature.name, rows=feature.rows) for feature in source.schema.sparse),
            parts=(record,),
            split=split_records(_split(config.samples)),
            preprocessing={
                "command": "synthesize",
                "parameters": config.model_dump(mode="json"),
                "profile_sha256": sha256_of(Path(config.profile).expanduser()),
            },
        )
        write_manifest(folder, manifest)
    except OSError as error:
        hint = "make room, see to its permissions or name another folder"
        raise DataError(config.output, f"cannot be written ({error.strerror})", hint=hint) from None


def _open(config: SynthesizeConfig) -> PackedFolder:
    # Where dataset.json says how large the tables are, the configured sizes are those to write for.
    sized = not is_remote(config.source) and read_manifest(config.source) is not None
    return open_packed(config.source, rows=None if sized else config.rows, rows_key="rows")


def _training_rows(folder: PackedFolder, most: int) -> list[Span]:
    """The first training rows, all rows where the data set does not say which they are."""
    everything = tuple(Span(part.name, 0, part.rows) for part in folder.parts)
    spans = folder.manifest.resolved_split.train if folder.manifest is not None else everything
    chosen: list[Span] = []
    for span in spans:
        stop = min(span.stop, span.start + most)
        if stop > span.start:
            chosen.append(Span(span.part, span.start, stop))
            most -= stop - span.start
    return chosen


def _read_columns(folder: PackedFolder, spans: Sequence[Span], first: int, count: int) -> NDArray[np.integer]:
    """The ids of ``count`` columns from ``first`` on, in order of the rows; (count, M)."""
    parts = {part.name: part for part in folder.parts}
    wide = any(parts[span.part].sparse_MF.dtype.itemsize > 4 for span in spans)
    streams_FM = np.empty((count, sum(len(span) for span in spans)), np.int64 if wide else np.int32)
    place = 0
    for span in spans:
        sparse_MF = parts[span.part].sparse_MF
        for start in range(span.start, span.stop, _ROWS_AT_A_TIME):
            ids_BF = sparse_MF[start : min(start + _ROWS_AT_A_TIME, span.stop), first : first + count]
            _check_ids(folder, parts[span.part], ids_BF, start, first)
            streams_FM[:, place : place + len(ids_BF)] = ids_BF.T
            place += len(ids_BF)
    return streams_FM


def _check_ids(folder: PackedFolder, part: PackedPart, ids_BF: NDArray[np.integer], start: int, first: int) -> None:
    """Make sure that ids are those of rows of a table; ``start`` is the first one's row, ``first`` its column."""
    features = folder.schema.sparse[first : first + ids_BF.shape[1]]
    rows_F = np.array([feature.rows for feature in features])
    if ((ids_BF.min(axis=0) >= 0) & (ids_BF.max(axis=0) < rows_F)).all():
        return
    row, column = np.argwhere((ids_BF < 0) | (ids_BF >= rows_F))[0]
    raise DataError(
        part.paths["sparse"],
        f"id {ids_BF[row, column]} is outside of its table (0 .. {rows_F[column] - 1})",
        row=start + int(row) + 1,
        column=features[column].name,
        hint="mend the data, or give the right rows where dataset.json does not say them",
    )


def _write_part(
    folder: Path, samples: int, source: NoiseSource, streams: Sequence[TraceStream], progress: Progress
) -> PartRecord:
    """Write all samples: dense values and labels of the source, ids of the streams."""
    writer = PartWriter(
        folder, _PART, rows=samples, num_dense=len(source.schema.dense), num_sparse=len(streams), wide_ids=False
    )
    task = progress.add_task("samples written", total=samples)
    clicks = 0
    try:
        for index_B, ids_BF in _portions(samples, streams):
            labels_B = source.labels(index_B)[:, 0]
            clicks += int(labels_B.sum())
            writer.write(int(index_B[0]), source.dense(index_B).numpy(), ids_BF, labels_B.to(torch.int32).numpy())
            progress.advance(task, len(index_B))
        return writer.finish(clicks=clicks, missing=None)
    finally:
        writer.close()


def _portions(samples: int, streams: Sequence[TraceStream]) -> Iterator[tuple[torch.Tensor, NDArray[np.int32]]]:
    """The samples some at a time: their indices and ids."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, samples, _ROWS_AT_A_TIME):
            count = min(_ROWS_AT_A_TIME, samples - start)
            columns: Iterable[NDArray[np.int32]] = threads.map(TraceStream.take, streams, [count] * len(streams))
            yield torch.arange(start, start + count), np.stack(list(columns), axis=1)


def _table_rows(config: SynthesizeConfig, profile: TraceProfile) -> tuple[int, ...]:
    if config.rows is None:
        rows = tuple(column.rows for column in profile.columns)
    else:
        rows = config.rows if len(config.rows) > 1 else config.rows * len(profile.columns)
    for table, size in enumerate(rows):
        if size >= 2**31:
            raise ConfigError.at(
                "rows", f"table {table} has {size:,} rows; synthetic tables have at most {2**31 - 1:,}"
            )
    return rows


def _split(samples: int) -> ResolvedSplit:
    tenth = samples // 10
    return ResolvedSplit(
        train=(Span(_PART, 0, samples - 2 * tenth),),
        validation=(Span(_PART, samples - 2 * tenth, samples - tenth),),
        test=(Span(_PART, samples - tenth, samples),),
    )


def _check_output(config: SynthesizeConfig) -> None:
    """See that nothing of somebody else's is in the way; what an earlier run has not finished is not."""
    if config.source and os.path.lexists(config.profile) and not is_profile(config.profile):
        problem = f"{config.profile} is there and no profile: move it away or name another file"
        raise ConfigError.at("profile", problem)
    folder = Path(config.output).expanduser()
    if not config.output or not folder.is_dir():
        return
    unfinished = {name + UNFINISHED for name in (MANIFEST_NAME, *(_PART + suffix for suffix in SUFFIXES.values()))}
    found = next((path.name for path in find_data(folder) if path.name not in unfinished), None)
    if found == MANIFEST_NAME:
        raise ConfigError.at("output", f"{config.output} holds a packed data set already: name another folder")
    if found is not None:
        raise ConfigError.at("output", f"{config.output} holds {found} already: move it away or name another folder")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
