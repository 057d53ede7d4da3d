"""Raw Criteo rows as arrays: a label (or none), integers and categories, tab separated, without header or quotes.

The parser knows only separators and digits: it finds every tab and newline of a block, so that each field is a (start,
length), and reads all fields of a kind one digit position at a time. Whatever is not an allowed digit is malformed, be
it text, a NUL byte, invalid UTF-8 or binary junk, and the first malformed field in file order is reported.

Terms: a *field* is one value of one row; *raw* integers and categories are the fields' values before any transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm.data.raw.layout import Layout
from dlrm.data.raw.malformed import MAX_DECIMAL_DIGITS, MAX_HEX_DIGITS, malformed_field, malformed_row
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER, Int64s, RawRows
from dlrm.data.raw.tsv_file import line_blocks, raise_if_damaged
from dlrm.errors import DataError

_TAB, _NEWLINE, _RETURN, _MINUS, _POINT, _ZERO = b"\t\n\r-.0"
_NO_DIGIT = 255

Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


def read_tsv(paths: Sequence[str], layout: Layout) -> RawRows:
    """All rows of the files, as one sequence.

    Args:
        paths: plain or gzip files, at least one.
        layout: their columns.

    Raises:
        DataError: a file cannot be read, or the first malformed field (by file, row, column). Where a gzip file is
            damaged, that is reported rather than the malformed rows that follow from it.
    """
    return RawRows.concatenated([block for path in paths for block in _read_file(path, layout)])


def _read_file(path: str, layout: Layout) -> list[RawRows]:
    parsed: list[RawRows] = []
    rows = 0
    try:
        for block in line_blocks(path):
            parsed.append(parse_lines(block, layout, path=path, first_row=rows + 1))
            rows += len(parsed[-1])
    except DataError as error:
        if error.row is not None:
            raise_if_damaged(path)
        raise
    return parsed


def parse_lines(lines: bytes, layout: Layout, *, path: str, first_row: int) -> RawRows:
    """Whole lines as arrays.

    Args:
        lines: one or more lines, the last one ending with a newline; CRLF is a newline as well.
        layout: the columns of a line.
        path: the file that messages name.
        first_row: 1-based row of the file that the first line is.

    Raises:
        DataError: the first malformed row or field.
    """
    buffer = np.frombuffer(lines, np.uint8)
    width = len(layout.columns)
    separators = np.flatnonzero((buffer == _TAB) | (buffer == _NEWLINE))
    widths_B = np.diff(np.flatnonzero(buffer[separators] == _NEWLINE), prepend=-1)
    wrong_B = widths_B != width
    rows = int(np.argmax(wrong_B)) if wrong_B.any() else len(widths_B)

    # What precedes the first row of another width is checked first: problems are reported in file order.
    fields = _Fields.between(buffer, separators, rows=rows, width=width)
    columns = _parse_fields(fields, layout)
    if not columns.valid_BC.all():
        row, column = divmod(int(np.argmin(columns.valid_BC)), width)
        line = _line(lines, row)
        raise malformed_field(fields.value(row, column), line, layout, column, path=path, row=first_row + row)
    if rows < len(widths_B):
        raise malformed_row(_line(lines, rows), int(widths_B[rows]), layout, path=path, row=first_row + rows)
    return columns.rows


def _line(lines: bytes, row: int) -> bytes:
    return lines.split(b"\n", row + 1)[row]


@dataclass(frozen=True)
class _Fields:
    """Where the fields of B rows and C columns lie in a buffer; starts and lengths in bytes."""

    buffer: Bytes
    starts_BC: Int64s
    lengths_BC: Int64s

    @classmethod
    def between(cls, buffer: Bytes, separators: Int64s, *, rows: int, width: int) -> _Fields:
        """The fields of the first ``rows`` rows, each of which has ``width`` fields."""
        ends_BC = separators[: rows * width].reshape(rows, width)
        starts_BC = np.empty_like(ends_BC)
        starts_BC.reshape(-1)[:1] = 0
        starts_BC.reshape(-1)[1:] = ends_BC.reshape(-1)[:-1] + 1
        lengths_BC = ends_BC - starts_BC
        last_B = lengths_BC[:, -1]
        last_B -= (last_B > 0) & (buffer[ends_BC[:, -1] - 1] == _RETURN)
        return cls(buffer, starts_BC, lengths_BC)

    def columns(self, first: int, last: int) -> tuple[Int64s, Int64s]:
        """Starts and lengths (C * B,) of columns first .. last - 1, one column after the other."""
        return self.starts_BC[:, first:last].T.reshape(-1), self.lengths_BC[:, first:last].T.reshape(-1)

    def value(self, row: int, column: int) -> bytes:
        """The bytes of one field."""
        start = self.starts_BC[row, column]
        return self.buffer[start : start + self.lengths_BC[row, column]].tobytes()


@dataclass(frozen=True)
class _Parsed:
    """The values of a block's fields and which of them (B rows, C columns) are well formed."""

    rows: RawRows
    valid_BC: Bools


def _parse_fields(fields: _Fields, layout: Layout) -> _Parsed:
    count, width = fields.starts_BC.shape
    first_category = layout.first_integer + layout.num_dense
    labels_B, label_valid_B = np.zeros(count, np.uint8), np.empty(0, np.bool_)
    if layout.labelled:
        labels_B, label_valid_B = _labels(fields)
    integers, integer_valid = _integers(fields.buffer, *fields.columns(layout.first_integer, first_category))
    starts, lengths = fields.columns(first_category, width)
    if layout.id_rows is None:
        categories, category_valid = hexadecimals(fields.buffer, starts, lengths)
    else:
        categories, category_valid = _decimals(fields.buffer, starts, lengths, most=MAX_DECIMAL_DIGITS)
        category_valid &= (lengths > 0) & (categories < np.repeat(layout.id_rows, count))
    valid_CB = np.concatenate([label_valid_B, integer_valid, category_valid]).reshape(width, count)
    rows = RawRows(
        labels_M=labels_B,
        integers_NM=integers.reshape(layout.num_dense, count),
        categories_FM=categories.reshape(layout.num_sparse, count),
    )
    return _Parsed(rows, valid_CB.T)


def _labels(fields: _Fields) -> tuple[Bytes, Bools]:
    """The labels (B,) and which of them are 0 or 1."""
    lengths_B = fields.lengths_BC[:, 0]
    labels_B, valid_B = _decimals(fields.buffer, fields.starts_BC[:, 0], lengths_B, most=1)
    return labels_B.astype(np.uint8), valid_B & (lengths_B > 0) & (labels_B <= 1)


def _integers(buffer: Bytes, starts: Int64s, lengths: Int64s) -> tuple[Int64s, Bools]:
    """Decimal integers with an optional minus sign (:data:`MISSING_INTEGER` where empty) and which are well formed."""
    negative = buffer[starts] == _MINUS
    magnitudes, valid = _decimals(buffer, starts + negative, lengths - negative, most=MAX_DECIMAL_DIGITS)
    valid &= ~(negative & (lengths == 1))  # a lone sign is no number
    values = np.where(negative, -magnitudes, magnitudes)
    values[lengths == 0] = MISSING_INTEGER
    return values, valid


def _decimals(buffer: Bytes, starts: Int64s, lengths: Int64s, *, most: int) -> tuple[Int64s, Bools]:
    """Whole decimal numbers without sign, 0 where empty, and which of them are well formed: ``260``, and ``260.0`` too.

    pandas writes the latter where a column of integers has missing values.
    """
    values, valid = _digits(buffer, starts, lengths, base=10, most=most)
    again = np.flatnonzero(~valid)
    if len(again):
        whole = _before_point(buffer, starts[again], lengths[again])
        values[again], valid[again] = _digits(buffer, starts[again], whole, base=10, most=most)
        valid[again] &= whole > 0
    return values, valid


def _before_point(buffer: Bytes, starts: Int64s, lengths: Int64s) -> Int64s:
    """How long fields are without a point and the 1 .. 18 zeros behind it, at their end; otherwise as they are."""
    ends = lengths.copy()
    for _ in range(MAX_DECIMAL_DIGITS):
        ends -= (ends > 0) & (buffer[starts + ends - 1] == _ZERO)
    is_point = (ends > 0) & (ends < lengths) & (buffer[starts + ends - 1] == _POINT)
    return np.where(is_point, ends - 1, lengths)


def hexadecimals(buffer: Bytes, starts: Int64s, lengths: Int64s) -> tuple[Int64s, Bools]:
    """Categories (:data:`MISSING_CATEGORY` where empty) and which of them are well formed.

    Args:
        buffer: the text.
        starts: int64, where each field begins in it.
        lengths: int64, of each field; in bytes.
    """
    values, valid = _digits(buffer, starts, lengths, base=16, most=MAX_HEX_DIGITS)
    values[lengths == 0] = MISSING_CATEGORY
    return values, valid


def _digits(buffer: Bytes, starts: Int64s, lengths: Int64s, *, base: int, most: int) -> tuple[Int64s, Bools]:
    """Numbers without sign, 0 where empty, and which of them consist of at most ``most`` digits and nothing else."""
    values = np.zeros(starts.shape, np.int64)
    valid = lengths <= most
    for position in range(min(most, int(lengths.max(initial=0)))):
        long_enough = np.flatnonzero(lengths > position)
        digits = _DIGIT_OF_BYTE[buffer[starts[long_enough] + position]]
        values[long_enough] = values[long_enough] * base + digits
        valid[long_enough] &= digits < base
    return values, valid


def _digit_table() -> Bytes:
    table = np.full(256, _NO_DIGIT, np.uint8)
    for digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
        table[list(digits)] = range(16)
    return table


_DIGIT_OF_BYTE = _digit_table()
