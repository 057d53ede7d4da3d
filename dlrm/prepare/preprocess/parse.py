"""A chunk of raw lines as arrays.

The grammar: a label 0 or 1; whole numbers of at most 18 digits with an optional minus; categories of at most 8 hexadecimal
digits; tabs between them, LF or CRLF at the end. An empty integer or category, and nothing else, is missing. Two parsers
agree on it: :mod:`~dlrm.prepare.preprocess.fields` parses and finds the first malformed row, and
:func:`dlrm.data.raw.tsv_parse.parse_lines` says what is wrong there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm.config.prepare import FixedDense, PreprocessConfig
from dlrm.data.raw.tsv_parse import Layout, parse_lines
from dlrm.errors import DataError
from dlrm.prepare.preprocess.fields import LogTransform, parse_fields
from dlrm.prepare.preprocess.raw_chunk import ChunkCounts, RawChunk

_NEWLINE = ord("\n")

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


def parse_chunk(lines: bytes, config: PreprocessConfig, *, where: Callable[[int], tuple[str, int]]) -> RawChunk:
    """Parse whole lines, without the GIL: call it from several threads at once.

    Args:
        lines: any number of lines, the last one ending with a newline.
        config: the columns, the transform of the integers and what to do about malformed rows.
        where: file and 1-based row of a line (0 is the first one); asked only for an error's sake.

    Raises:
        DataError: the first malformed row, with its column, unless ``config.bad_rows`` is ``skip``.
    """
    text = np.frombuffer(lines, np.uint8)
    parsed = _Arrays.empty(count_newlines(text), config)
    malformed = parsed.fill(text, config)
    skipped = 0
    if malformed is not None:
        if config.bad_rows == "error":
            raise _error(lines.split(b"\n", malformed + 1)[malformed], config, *where(malformed))
        well_formed = _well_formed(text, parsed, config)
        kept = count_newlines(well_formed)
        skipped = len(parsed.labels_M) - kept
        parsed = _Arrays.empty(kept, config)
        if parsed.fill(well_formed, config) is not None:
            raise RuntimeError("a line parses alone, but not among others")
    return parsed.chunk(skipped)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_newlines(text: Bytes) -> int:
    """How many newlines there are, without the GIL and without a temporary array."""
    count = 0
    for byte in text:
        count += byte == _NEWLINE
    return count


@lru_cache(maxsize=4)
def _transform(config: FixedDense) -> LogTransform:
    return LogTransform(config)


@dataclass(frozen=True)
class _Arrays:
    """What M lines are parsed into."""

    labels_M: Bytes
    dense_MN: npt.NDArray[np.float32]
    dense_missing_N: Int64s
    categories_FM: npt.NDArray[np.uint32]
    missing_FM: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, rows: int, config: PreprocessConfig) -> _Arrays:
        return cls(
            labels_M=np.empty(rows, np.uint8),
            dense_MN=np.empty((rows, config.num_dense), np.float32),
            dense_missing_N=np.zeros(config.num_dense, np.int64),
            categories_FM=np.empty((config.num_sparse, rows), np.uint32),
            missing_FM=np.empty((config.num_sparse, rows), np.bool_),
        )

    def from_row(self, row: int) -> _Arrays:
        """Views of the rows from ``row`` on."""
        return _Arrays(
            labels_M=self.labels_M[row:],
            dense_MN=self.dense_MN[row:],
            dense_missing_N=self.dense_missing_N,
            categories_FM=self.categories_FM[:, row:],
            missing_FM=self.missing_FM[:, row:],
        )

    def fill(self, text: Bytes, config: PreprocessConfig) -> int | None:
        """Parse the first M lines of the text; the first malformed row, if any, after which nothing is defined."""
        rows = parse_fields(
            text,
            _transform(config.dense),
            labels_M=self.labels_M,
            dense_MN=self.dense_MN,
            dense_missing_N=self.dense_missing_N,
            categories_FM=self.categories_FM,
            missing_FM=self.missing_FM,
        )
        return rows if rows < len(self.labels_M) else None

    def chunk(self, skipped_rows: int) -> RawChunk:
        """The parsed rows with what can be counted in them."""
        missing = {f"int_{i}": int(count) for i, count in enumerate(self.dense_missing_N)}
        missing |= {f"cat_{i}": int(np.count_nonzero(missing_M)) for i, missing_M in enumerate(self.missing_FM)}
        clicks = int(np.count_nonzero(self.labels_M))
        counts = ChunkCounts(rows=len(self.labels_M), clicks=clicks, missing=missing, skipped_rows=skipped_rows)
        return RawChunk(self.labels_M, self.dense_MN, self.categories_FM, self.missing_FM, counts)


def _well_formed(text: Bytes, scratch: _Arrays, config: PreprocessConfig) -> Bytes:
    """The text without its malformed lines."""
    ends_M = np.flatnonzero(text == _NEWLINE) + 1
    starts_M = np.concatenate([[0], ends_M[:-1]])
    keep_M = np.ones(len(ends_M), np.bool_)
    row = 0
    while row < len(ends_M) and (bad := scratch.from_row(row).fill(text[starts_M[row] :], config)) is not None:
        keep_M[row + bad] = False
        row += bad + 1
    return text[np.repeat(keep_M, ends_M - starts_M)]


def _error(line: bytes, config: PreprocessConfig, path: str, row: int) -> DataError:
    """What is wrong with a malformed line."""
    layout = Layout(num_dense=config.num_dense, num_sparse=config.num_sparse, options="")
    try:
        parse_lines(line + b"\n", layout, path=path, first_row=row)
    except DataError as error:
        if row == 1:  # the first row's mends speak of headers and the like
            return error
        mend = f"{error.mend}; bad_rows=skip leaves such rows out"
        return DataError(path, error.problem, row=error.row, column=error.column, mend=mend)
    raise RuntimeError(f"{path}, row {row}: refused by one parser and accepted by the other")
