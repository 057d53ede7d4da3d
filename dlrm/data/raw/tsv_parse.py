"""Raw Criteo rows as arrays: a label, integers and categories, tab separated, without header or quotes.

The parser knows only separators and digits: it finds every tab and newline of a block, so that each field is a (start,
length), and reads all fields of a kind one digit position at a time. Whatever is not an allowed digit is malformed, be
it text, a NUL byte, invalid UTF-8 or binary junk, and the first malformed field in file order is reported.

Terms: a *field* is one value of one row; *raw* integers and categories are the fields' values before any transform.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER, Int64s, RawRows
from dlrm.data.raw.tsv_file import line_blocks, raise_if_damaged
from dlrm.errors import DataError

_MAX_DECIMAL_DIGITS = 18  # the most that any int64 can hold
_MAX_HEX_DIGITS = 8  # 32 bits
_TAB, _NEWLINE, _RETURN, _MINUS, _ZERO, _ONE = b"\t\n\r-01"
_NO_DIGIT = 255
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """The columns of a row: ``label``, ``int_0`` .., ``cat_0`` ..

    Attributes:
        num_dense: integer columns; num_sparse: category columns.
        id_rows: where categories are decimal ids instead of hexadecimal values: the table size of each column.
        options: what the dotted keys start with under which messages name the options.
    """

    num_dense: int
    num_sparse: int
    id_rows: tuple[int, ...] | None = None
    options: str = "data."

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the integer columns."""
        return tuple(f"int_{i}" for i in range(self.num_dense))

    @property
    def sparse_names(self) -> tuple[str, ...]:
        """Names of the category columns."""
        return tuple(f"cat_{i}" for i in range(self.num_sparse))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, in file order."""
        return ("label", *self.dense_names, *self.sparse_names)


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
        raise _malformed_field(fields.value(row, column), layout, column, path=path, row=first_row + row)
    if rows < len(widths_B):
        line = lines.split(b"\n", rows + 1)[rows]
        raise _malformed_row(line, int(widths_B[rows]), layout, path=path, row=first_row + rows)
    return columns.rows


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
    first_category = 1 + layout.num_dense
    labels_B, label_valid_B = _labels(fields)
    integers, integer_valid = _integers(fields.buffer, *fields.columns(1, first_category))
    starts, lengths = fields.columns(first_category, width)
    if layout.id_rows is None:
        categories, category_valid = _digits(fields.buffer, starts, lengths, base=16, most=_MAX_HEX_DIGITS)
        categories[lengths == 0] = MISSING_CATEGORY
    else:
        categories, category_valid = _digits(fields.buffer, starts, lengths, base=10, most=_MAX_DECIMAL_DIGITS)
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
    # An empty label's start is its separator, which is no digit.
    first_B = fields.buffer[fields.starts_BC[:, 0]]
    valid_B = (fields.lengths_BC[:, 0] == 1) & ((first_B == _ZERO) | (first_B == _ONE))
    return first_B - np.uint8(_ZERO), valid_B


def _integers(buffer: Bytes, starts: Int64s, lengths: Int64s) -> tuple[Int64s, Bools]:
    """Decimal integers with an optional minus sign (:data:`MISSING_INTEGER` where empty) and which are well formed."""
    negative = buffer[starts] == _MINUS
    magnitudes, valid = _digits(buffer, starts + negative, lengths - negative, base=10, most=_MAX_DECIMAL_DIGITS)
    valid &= ~(negative & (lengths == 1))  # a lone sign is no number
    values = np.where(negative, -magnitudes, magnitudes)
    values[lengths == 0] = MISSING_INTEGER
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


def _malformed_row(line: bytes, width: int, layout: Layout, *, path: str, row: int) -> DataError:
    """What is wrong with a row that has another number of columns than the layout."""
    columns = layout.columns
    if not line.strip():
        return DataError(path, "the row is blank", row=row, mend="delete it: a row needs at least its tabs")
    problem = (
        f"row has {width} column{'' if width == 1 else 's'}, expected {len(columns)} ({columns[0]}, {columns[1]} .. "
        f"{columns[layout.num_dense]}, {columns[layout.num_dense + 1]} .. {columns[-1]}); it starts with {_shown(line)}"
    )
    options = f"{layout.options}num_dense and {layout.options}num_sparse"
    mend = f"columns are separated by single tabs; {options} say how many there are"
    if row == 1:
        mend = _first_row_mend(line) or mend
        if width == len(columns) - 1:
            mend = "is the label missing? Rows without labels (Kaggle's test.txt) can be neither trained on nor scored"
    return DataError(path, problem, row=row, mend=mend)


def _malformed_field(value: bytes, layout: Layout, column: int, *, path: str, row: int) -> DataError:
    """What is wrong with a field that did not parse."""
    if column == 0:
        problem, mend = "must be 0 or 1", (_first_row_mend(value) if row == 1 else "") or "mend or remove the row"
    elif column <= layout.num_dense:
        problem, mend = _integer_problem(value), "give a whole number, or leave the field empty where it is missing"
    elif layout.id_rows is not None:
        rows = layout.id_rows[column - 1 - layout.num_dense]
        problem, mend = _id_problem(value, rows), "mend the id or raise data.categories.rows"
    else:
        problem, mend = _hex_problem(value), "give hexadecimal digits, or leave the field empty where it is missing"
        if layout.options == "data.":  # preprocessing does not read ids
            mend = "data.categories.kind=ids reads decimal ids; an empty field is missing"
    return DataError(path, f"is {_shown(value)}, {problem}", row=row, column=layout.columns[column], mend=mend)


def _first_row_mend(start: bytes) -> str:
    if start.startswith(_BYTE_ORDER_MARKS):
        return "the file starts with a byte order mark: save it as plain ASCII or UTF-8 without one"
    if re.match(rb'["#]?\s*[A-Za-z_]{2}', start):
        return "the file must have no header: remove its first line"
    return ""


def _integer_problem(value: bytes) -> str:
    if re.fullmatch(rb"[+-]?(nan|inf|infinity)", value, re.IGNORECASE):
        return "which is not finite"
    if re.fullmatch(rb"-?[0-9]+", value):
        return f"out of range: not a finite integer of at most {_MAX_DECIMAL_DIGITS} digits"
    return "not an integer"


def _hex_problem(value: bytes) -> str:
    if re.fullmatch(rb"[0-9A-Fa-f]+", value):
        return f"longer than {_MAX_HEX_DIGITS} hexadecimal digits (32 bits)"
    return f"not a category of 1 to {_MAX_HEX_DIGITS} hexadecimal digits"


def _id_problem(value: bytes, rows: int) -> str:
    if not value:
        return f"but every id must be given (0 .. {rows - 1}): ids have none set apart for missing values"
    if re.fullmatch(rb"-?[0-9]+", value):
        return f"outside of its table's ids 0 .. {rows - 1}"
    return f"not a decimal id (0 .. {rows - 1})"


def _shown(value: bytes) -> str:
    """The value as a person can read it: one line, non-printing characters escaped, at most about 40 characters."""
    try:
        text = repr(value[:64].decode())
    except UnicodeDecodeError:
        text = repr(value[:64])[1:]
    return text if len(text) <= 40 else f"{text[:37]}...{text[-1]}"
