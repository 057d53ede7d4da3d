"""The second step: how many rows there are, which parts they form and what each is for."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from dlrm.config.data.packed import PartSplit
from dlrm.config.prepare import EqualParts, PreprocessConfig
from dlrm.data.packed.split import Part, ResolvedSplit, resolve_split
from dlrm.errors import ConfigError, DataError
from dlrm.preprocess.parse import malformed_lines
from dlrm.preprocess.raw_chunk import ChunkCounts
from dlrm.preprocess.replaced import make_way
from dlrm.preprocess.rows import Chunk, RowMap, Rows
from dlrm.preprocess.setting import Setting, Source
from dlrm.preprocess.sources import text_chunks
from dlrm.preprocess.work_folder import FileCounts, read_json

_MANY_ROWS = 10**18
_LOOKED_AT_BYTES = 1 << 16  # of rows that were left out, for words about them
_MADE_UP = 10**12  # numbers from here on come from _MANY_ROWS, and nobody has so many rows


@dataclass(frozen=True)
class Counted:
    """What is known once all files were parsed.

    Attributes:
        rows: how chunks, parts and training rows overlap; split: which rows are for what.
        files: what was counted in each file.
    """

    rows: RowMap
    split: ResolvedSplit
    files: tuple[ChunkCounts, ...]


def count_rows(setting: Setting) -> Counted:
    """Read what was counted in all files.

    With that the new input is known to do, so a data set that it replaces makes way here.

    Raises:
        ConfigError: parts or split do not fit the rows.
        DataError: there are no rows.
    """
    chunks: list[Chunk] = []
    files: list[ChunkCounts] = []
    start = 0
    for file in range(len(setting.sources)):
        counts = [ChunkCounts(rows, clicks, missing, skip) for rows, clicks, skip, missing in _counts(setting, file)]
        for index, count in enumerate(counts):
            chunks.append(Chunk(file, index, Rows(start, start + count.rows)))
            start += count.rows
        files.append(_total(counts))
    if not start:
        raise _no_row(setting, sum(file.skipped_rows for file in files))
    parts = _parts(setting, [file.rows for file in files])
    split = resolve_split(setting.config.split, parts, "split")
    bucket_rows = setting.bucket_rows if setting.config.shuffle else 0
    counted = Counted(RowMap(chunks, parts, split, bucket_rows), split, tuple(files))
    if setting.rank == 0:
        make_way(setting.work)
    return counted


def _no_row(setting: Setting, skipped: int) -> DataError:
    """Why nothing is left, by the first rows of the first file."""
    source = setting.sources[0].file
    if not skipped:
        return DataError(source.path, "there is no row in any file", mend="check input")
    text = next(text_chunks(source, _LOOKED_AT_BYTES, lambda chunk: chunk == 0))
    errors = malformed_lines(text.lines, setting.config, source.path)
    causes = Counter(error.column or "number of columns" for error in errors)
    counts = ", ".join(f"{cause} in {count:,}" for cause, count in causes.most_common())
    problem = (
        f"all {skipped:,} rows are malformed and were left out (bad_rows: skip): {counts} of the first {len(errors):,}"
    )
    first = errors[0]
    return DataError(source.path, f"{problem}; row {first.row}: {first.problem}", mend=first.mend)


def roughly_counted(config: PreprocessConfig, sources: Sequence[Source]) -> list[Part]:
    """The parts before anything was counted: their names, and about as many rows as they will have."""
    rows = [source.extent.rows for source in sources]
    if isinstance(config.parts, EqualParts):
        rows = [sum(rows) // config.parts.days] * config.parts.days
    return [Part(name, count) for name, count in zip(part_names(config, sources), rows, strict=True)]


def part_names(config: PreprocessConfig, sources: Sequence[Source]) -> list[str]:
    """The names of the parts, in order."""
    if isinstance(config.parts, EqualParts):
        return [f"day_{day}" for day in range(config.parts.days)]
    return [source.file.part for source in sources]


def check_split(split: PartSplit, parts: Sequence[Part]) -> None:
    """Find mistakes in a split before hours of work, when it is only roughly known how many rows there are.

    Raises:
        ConfigError: the split is wrong however many rows the parts have.
    """
    with suppress(ConfigError):
        resolve_split(split, parts, "split")
        return
    try:
        resolve_split(split, [Part(part.name, _MANY_ROWS) for part in parts], "split")
    except ConfigError as error:
        raise ConfigError([replace(p, message=_without_made_up_rows(p.message)) for p in error.problems]) from None


def _without_made_up_rows(message: str) -> str:
    """What is wrong with a split, without the numbers of rows that nobody has counted yet."""

    def known(match: re.Match[str]) -> str:
        return "rows of" if max(int(match[1]), int(match[2])) >= _MADE_UP else match[0]

    message = re.sub(r"rows (\d+) \.\. (\d+) of", known, message)
    return message.replace(f", which has {_MANY_ROWS}", ", which it cannot have")


def _counts(setting: Setting, file: int) -> FileCounts:
    counts: FileCounts = read_json(setting.work.counts(file), FileCounts)
    return counts


def _total(counts: Sequence[ChunkCounts]) -> ChunkCounts:
    missing: Counter[str] = Counter()
    for count in counts:
        missing.update(count.missing)
    return ChunkCounts(
        rows=sum(count.rows for count in counts),
        clicks=sum(count.clicks for count in counts),
        missing=dict(missing),
        skipped_rows=sum(count.skipped_rows for count in counts),
    )


def _parts(setting: Setting, file_rows: list[int]) -> list[Part]:
    config = setting.config.parts
    names = part_names(setting.config, setting.sources)
    if not isinstance(config, EqualParts):
        return [Part(name, rows) for name, rows in zip(names, file_rows, strict=True)]
    total = sum(file_rows)
    if config.days > total:
        raise ConfigError.at("parts.days", f"is {config.days}, but there are {total} rows only")
    edges = [total // config.days * day + min(day, total % config.days) for day in range(config.days + 1)]
    return [Part(name, stop - start) for name, (start, stop) in zip(names, itertools.pairwise(edges), strict=True)]
