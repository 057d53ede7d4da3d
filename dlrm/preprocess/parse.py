"""A chunk of raw lines as records.

The grammar: a label 0 or 1; whole numbers of at most 18 digits with an optional minus; categories of at most 8 hexadecimal
digits; tabs between them, LF or CRLF at the end. A point and zeros may end labels and whole numbers (``260.0``). An empty
integer or category, and nothing else, is missing. Two parsers agree on it: :mod:`~dlrm.preprocess.fields` parses
and finds the first malformed row, and :func:`dlrm.data.raw.tsv_parse.parse_lines` says what is wrong there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled
from dlrm.config.prepare import FixedDense, PreprocessConfig
from dlrm.data.raw.layout import Layout
from dlrm.data.raw.tsv_parse import parse_lines
from dlrm.errors import DataError
from dlrm.preprocess.fields import LogTransform, parse_fields
from dlrm.preprocess.memory import Scratch
from dlrm.preprocess.raw_chunk import ChunkCounts, RawChunk
from dlrm.preprocess.records import Records, Words

_NEWLINE = ord("\n")

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


def parse_chunk(
    lines: bytes,
    config: PreprocessConfig,
    *,
    where: Callable[[int], tuple[str, int]],
    num_lines: int | None = None,
    first_line: int = 0,
    scratch: Scratch | None = None,
    places_M: Int64s | None = None,
) -> RawChunk:
    """Parse whole lines, without the GIL: call it from several threads at once.

    Args:
        lines: any number of lines, the last one ending with a newline.
        config: the columns, the transform of the integers and what to do about malformed rows.
        where: file and 1-based row of a line (0 is the first one); asked only for an error's sake.
        num_lines: how many lines there are, if that is known.
        first_line: which line of its file the first one is; handed on.
        scratch: where the records are to be; in an array of their own by default.
        places_M: int64 (M,), which record each line is to be, if none is left out; in order by default.

    Raises:
        DataError: the first malformed row, with its column, unless ``config.bad_rows`` is ``skip``.
    """
    text = np.frombuffer(lines, np.uint8)
    parsed = _Rows.empty(count_newlines(text) if num_lines is None else num_lines, config, scratch)
    malformed = parsed.fill(text, config, places_M)
    skipped = np.empty(0, np.int64)
    if malformed is not None:
        if config.bad_rows == "error":
            raise _error(lines.split(b"\n", malformed + 1)[malformed], config, *where(malformed))
        well_formed, skipped = _well_formed(text, parsed, config)
        parsed = _Rows.empty(count_newlines(well_formed), config, scratch)
        if parsed.fill(well_formed, config) is not None:
            raise RuntimeError("a line parses alone, but not among others")
    return parsed.chunk(first_line, skipped, is_placed=places_M is not None and malformed is None)


@compiled
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
class _Rows:
    """What M lines are parsed into."""

    records: Records
    records_MW: Words
    missing_C: Int64s

    @classmethod
    def empty(cls, rows: int, config: PreprocessConfig, scratch: Scratch | None) -> _Rows:
        records = Records(config.num_dense, config.num_sparse)
        size = (rows, records.words)
        return cls(
            records,
            records_MW=np.empty(size, np.uint32) if scratch is None else scratch.words(*size),
            missing_C=np.zeros(config.num_dense + config.num_sparse, np.int64),
        )

    def from_row(self, row: int) -> _Rows:
        """A view of the rows from ``row`` on."""
        return _Rows(self.records, self.records_MW[row:], self.missing_C)

    def fill(self, text: Bytes, config: PreprocessConfig, places_M: Int64s | None = None) -> int | None:
        """Parse the first M lines of the text; the first malformed row, if any, after which nothing is defined."""
        rows = parse_fields(
            text,
            _transform(config.dense),
            self.records,
            records_MW=self.records_MW,
            places_M=np.arange(len(self.records_MW)) if places_M is None else places_M,
            missing_C=self.missing_C,
        )
        return rows if rows < len(self.records_MW) else None

    def chunk(self, first_line: int, skipped_lines: Int64s, *, is_placed: bool) -> RawChunk:
        """The parsed rows with what was counted in them."""
        names = [f"int_{n}" for n in range(self.records.num_dense)]
        names += [f"cat_{f}" for f in range(self.records.num_sparse)]
        counts = ChunkCounts(
            rows=len(self.records_MW),
            clicks=int(np.count_nonzero(self.records_MW[:, 1] & np.uint32(1))),
            missing=dict(zip(names, self.missing_C.tolist(), strict=True)),
            skipped_rows=len(skipped_lines),
        )
        return RawChunk(self.records_MW, first_line, skipped_lines, counts, is_placed)


def _well_formed(text: Bytes, scratch: _Rows, config: PreprocessConfig) -> tuple[Bytes, Int64s]:
    """The text without its malformed lines, and which lines these are."""
    ends_M = np.flatnonzero(text == _NEWLINE) + 1
    starts_M = np.concatenate([[0], ends_M[:-1]])
    keep_M = np.ones(len(ends_M), np.bool_)
    row = 0
    while row < len(ends_M) and (bad := scratch.from_row(row).fill(text[starts_M[row] :], config)) is not None:
        keep_M[row + bad] = False
        row += bad + 1
    return text[np.repeat(keep_M, ends_M - starts_M)], np.flatnonzero(~keep_M)


def _error(line: bytes, config: PreprocessConfig, path: str, row: int) -> DataError:
    """What is wrong with a malformed line."""
    error = _malformed(line, config, path, row)
    if error is None:
        raise RuntimeError(f"{path}, row {row}: refused by one parser and accepted by the other")
    if row == 1:  # the first row's mends speak of headers and the like
        return error
    mend = f"{error.mend}; bad_rows=skip leaves such rows out"
    return DataError(path, error.problem, row=error.row, column=error.column, mend=mend)


def malformed_lines(lines: bytes, config: PreprocessConfig, path: str) -> list[DataError]:
    """What is wrong with each malformed line at the start of a file, which ``lines`` are."""
    errors = (
        _malformed(line, config, path, row) for row, line in enumerate(lines.removesuffix(b"\n").split(b"\n"), start=1)
    )
    return [error for error in errors if error is not None]


def _malformed(line: bytes, config: PreprocessConfig, path: str, row: int) -> DataError | None:
    layout = Layout(num_dense=config.num_dense, num_sparse=config.num_sparse, options="")
    try:
        parse_lines(line + b"\n", layout, path=path, first_row=row)
    except DataError as error:
        return error
    return None
