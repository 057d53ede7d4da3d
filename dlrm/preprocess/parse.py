"""A chunk of raw lines as records, in one pass over their bytes, compiled by numba.

Parsing is where preprocessing spends its time if it is let: pyarrow's CSV reader, polars' and DuckDB's take two to five
times as long, and leave categories to be decoded from hexadecimal and integers to be transformed (docs/data.md).

The grammar: a label 0 or 1; whole numbers of at most 18 digits with an optional minus; categories of at most 8 hexadecimal
digits; tabs between them, LF or CRLF at the end. A point and zeros may end labels and whole numbers (``260.0``). An empty
integer or category, and nothing else, is missing. Two parsers agree on it: the one here knows what is well formed and
nothing else, and :func:`dlrm.data.raw.tsv_parse.parse_lines` says what is wrong with a line that it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm.compiled import compiled
from dlrm.config.prepare import PreprocessConfig
from dlrm.data.raw.layout import Layout
from dlrm.data.raw.log_table import Float32s, LogTable, log_table, looked_up
from dlrm.data.raw.malformed import MAX_DECIMAL_DIGITS, MAX_HEX_DIGITS
from dlrm.data.raw.tsv_parse import parse_lines
from dlrm.errors import DataError
from dlrm.preprocess.records import Int64s, Records, UInt32s, record_type
from dlrm.preprocess.work_folder import ChunkCounts

Bytes = npt.NDArray[np.uint8]

_TAB, _NEWLINE, _RETURN, _MINUS, _POINT, _ZERO, _ONE, _NINE = b"\t\n\r-.019"
_NO_DIGIT = 16
_COUNTED_BYTES = 1 << 16  # at a time, so that no large array is made for it
_MALFORMED = -1


def _digit_table() -> Bytes:
    table = np.full(256, _NO_DIGIT, np.uint8)
    for digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
        table[list(digits)] = range(16)
    return table


_DIGIT_OF_BYTE = _digit_table()


@dataclass(frozen=True)
class ParsedChunk:
    """M parsed rows.

    Attributes:
        records_M: the rows in order, without their keys.
        skipped_lines: int64 (S,), ascending, lines of the chunk, counted from its first one, that were left out.
        counts: of the rows.
    """

    records_M: Records
    skipped_lines: Int64s
    counts: ChunkCounts


def parse_chunk(
    lines: bytes, config: PreprocessConfig, *, where: Callable[[int], tuple[str, int]], num_lines: int
) -> ParsedChunk:
    """Parse whole lines, without the GIL: call it from several threads at once.

    Args:
        lines: any number of lines, the last one ending with a newline.
        config: the columns, the transform of the integers and what to do about malformed rows.
        where: file and 1-based row of a line (0 is the first one); asked only for an error's sake.
        num_lines: how many lines there are.

    Raises:
        DataError: the first malformed row, with its column, unless ``config.bad_rows`` is ``skip``.
    """
    names = [f"int_{n}" for n in range(config.num_dense)] + [f"cat_{f}" for f in range(config.num_sparse)]
    # Two more than needed: no field of two rows is contiguous, so that the loop is compiled for one kind of arrays only.
    records_M = np.empty(num_lines + 2, record_type(config))
    missing_C = np.zeros(len(names), np.int64)
    malformed_S = np.empty(num_lines, np.int64)
    rows, malformed = _parse(
        np.frombuffer(lines, np.uint8),
        log_table(config.dense.minimum, config.dense.shift, config.dense.missing),
        (records_M["flags"], records_M["dense"], records_M["categories"]),
        missing_C,
        malformed_S,
        config.bad_rows == "error",
    )
    if malformed and config.bad_rows == "error":
        line = int(malformed_S[0])
        raise _error(lines.split(b"\n", line + 1)[line], config, *where(line))
    counts = ChunkCounts(rows, malformed, dict(zip(names, missing_C.tolist(), strict=True)))
    return ParsedChunk(records_M[:rows], malformed_S[:malformed].copy(), counts)


def count_lines(lines: bytes) -> int:
    """How many newlines there are, without the GIL."""
    text = np.frombuffer(lines, np.uint8)
    return sum(
        int(np.count_nonzero(text[start : start + _COUNTED_BYTES] == _NEWLINE))
        for start in range(0, len(text), _COUNTED_BYTES)
    )


def malformed_lines(lines: bytes, config: PreprocessConfig, path: str) -> list[DataError]:
    """What is wrong with each malformed line at the start of a file, which ``lines`` are."""
    errors = (
        _malformed(line, config, path, row) for row, line in enumerate(lines.removesuffix(b"\n").split(b"\n"), start=1)
    )
    return [error for error in errors if error is not None]


def _error(line: bytes, config: PreprocessConfig, path: str, row: int) -> DataError:
    """What is wrong with a malformed line."""
    error = _malformed(line, config, path, row)
    if error is None:
        raise RuntimeError(f"{path}, row {row}: refused by one parser and accepted by the other")
    if row == 1:  # the first row's hints speak of headers and the like
        return error
    hint = f"{error.hint}; bad_rows=skip leaves such rows out"
    return DataError(path, error.problem, row=error.row, column=error.column, hint=hint)


def _malformed(line: bytes, config: PreprocessConfig, path: str, row: int) -> DataError | None:
    layout = Layout(num_dense=config.num_dense, num_sparse=config.num_sparse, options="")
    try:
        parse_lines(line + b"\n", layout, path=path, first_row=row)
    except DataError as error:
        return error
    return None


@compiled
def _parse(
    text: Bytes,
    transform: LogTable,
    fields: tuple[UInt32s, Float32s, UInt32s],
    missing_C: Int64s,
    malformed_S: Int64s,
    stops: bool,
) -> tuple[int, int]:
    """Parse rows; nothing reads past the end, where there is a newline, which no field goes over.

    Args:
        text: whole lines.
        transform: of the integers.
        fields: of the records, filled: flags, dense, categories.
        missing_C: the number of empty fields of each column is added, integers first.
        malformed_S: filled with the numbers of malformed lines, which are left out.
        stops: whether to stop at the first of them.

    Returns:
        The number of rows, and of malformed lines.
    """
    flags_MK, dense_MN, categories_MF = fields
    is_missing_C = np.zeros(len(missing_C), np.int64)
    at = row = malformed = 0
    while at < len(text) and not (stops and malformed > 0):
        end = _parse_row(text, at, transform, flags_MK[row], dense_MN[row], categories_MF[row], is_missing_C)
        if end != _MALFORMED:
            for c in range(len(missing_C)):
                missing_C[c] += is_missing_C[c]
            at = end
            row += 1
        else:
            malformed_S[malformed] = row + malformed
            malformed += 1
            while text[at] != _NEWLINE:
                at += 1
            at += 1
    return row, malformed


@compiled
def _parse_row(
    text: Bytes,
    at: int,
    transform: LogTable,
    flags_K: UInt32s,
    dense_N: Float32s,
    categories_F: UInt32s,
    is_missing_C: Int64s,
) -> int:
    """Parse the row that begins at some byte; where the next one begins."""
    if text[at] != _ZERO and text[at] != _ONE:
        return _MALFORMED
    for k in range(len(flags_K)):
        flags_K[k] = 0
    flags_K[0] = text[at] - _ZERO
    at = _behind_point(text, at + 1)
    if text[at] != _TAB:
        return _MALFORMED
    for n in range(len(dense_N)):
        at += 1
        is_missing_C[n] = text[at] == _TAB
        if is_missing_C[n]:
            dense_N[n] = transform.missing
            continue
        is_negative = text[at] == _MINUS
        at += is_negative
        first, value = at, 0
        while _ZERO <= text[at] <= _NINE:
            value = 10 * value + (text[at] - _ZERO)
            at += 1
        if not 0 < at - first <= MAX_DECIMAL_DIGITS:
            return _MALFORMED
        at = _behind_point(text, at)
        if text[at] != _TAB:
            return _MALFORMED
        value = -value if is_negative else value
        dense_N[n] = looked_up(value, transform)
    for f in range(len(categories_F)):
        if text[at] != _TAB:
            return _MALFORMED
        at += 1
        first, value = at, 0
        digit = _DIGIT_OF_BYTE[text[at]]
        while digit != _NO_DIGIT:
            value = 16 * value + digit
            at += 1
            digit = _DIGIT_OF_BYTE[text[at]]
        if at - first > MAX_HEX_DIGITS:
            return _MALFORMED
        categories_F[f] = value
        is_missing_C[len(dense_N) + f] = at == first
        if at == first:
            flags_K[(1 + f) >> 5] |= np.uint32(1 << ((1 + f) & 31))
    if text[at] == _RETURN:
        at += 1
    return at + 1 if text[at] == _NEWLINE else _MALFORMED


@compiled
def _behind_point(text: Bytes, at: int) -> int:
    """Where the zeros end that follow a point at ``at``, as in ``260.0``; ``at`` itself where it is no such point."""
    if text[at] != _POINT:
        return at
    end = at + 1
    while text[end] == _ZERO:
        end += 1
    return end if 1 < end - at <= 1 + MAX_DECIMAL_DIGITS else at
