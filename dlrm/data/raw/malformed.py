"""What is wrong with a malformed row or field, in one line: what is there, what was expected and the likely cause.

The cause is looked for in the row as a whole, in this order: another encoding or line end, another format (slots, JSON),
another separator, a header, columns that are missing at the end or the start.
"""

from __future__ import annotations

import re

from dlrm.data.raw.layout import Layout
from dlrm.errors import DataError

MAX_DECIMAL_DIGITS = 18  # the most that any int64 can hold
MAX_HEX_DIGITS = 8  # 32 bits

_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_SEPARATORS = {b",": "commas", b";": "semicolons", b"|": "bars", b"\x01": "Hive's \\x01", b" ": "spaces"}
_SLOT = re.compile(rb"[^\s:,;|]+:[^\s:,;|]*")
_LABEL = re.compile(rb"[01](\.0{1,18})?")
_INTEGER = re.compile(rb"(-?[0-9]{1,18}(\.0{1,18})?)?")
_CATEGORY = re.compile(rb"[0-9A-Fa-f]{0,8}")


def malformed_row(line: bytes, width: int, layout: Layout, *, path: str, row: int) -> DataError:
    """What is wrong with a row that has ``width`` columns, another number than the layout."""
    columns = layout.columns
    if not line.strip():
        return DataError(path, "the row is blank", row=row, hint="delete it: a row needs at least its tabs")
    expected = ", ".join([*columns[: layout.first_integer], _span(layout.dense_names), _span(layout.sparse_names)])
    problem = (
        f"row has {width} column{'' if width == 1 else 's'}, expected {len(columns)} ({expected}); "
        f"it starts with {_shown(line)}"
    )
    hint = _another_kind_of_file(line, layout, row) or _columns_missing(line, layout, row)
    if not hint:
        hint = f"columns are separated by single tabs; {_options(layout)} say how many there are"
    return DataError(path, problem, row=row, hint=hint)


def malformed_field(value: bytes, line: bytes, layout: Layout, column: int, *, path: str, row: int) -> DataError:
    """What is wrong with a field that did not parse, in a row with as many columns as the layout."""
    if layout.columns[column] == "label":
        problem, hint = "must be 0 or 1", _another_kind_of_file(line, layout, row) or "mend or remove the row"
    elif column < layout.first_integer + layout.num_dense:
        problem, hint = _integer_problem(value), "give a whole number, or leave the field empty where it is missing"
    elif layout.id_rows is not None:
        rows = layout.id_rows[column - layout.first_integer - layout.num_dense]
        problem, hint = _id_problem(value, rows), "mend the id"
        if layout.options is not None:
            hint = "mend the id or raise data.categories.rows"
    else:
        problem, hint = _hex_problem(value), "give hexadecimal digits, or leave the field empty where it is missing"
        if layout.options == "data.":  # preprocessing does not read ids
            hint = "data.categories.kind=ids reads decimal ids; an empty field is missing"
    return DataError(path, f"is {_shown(value)}, {problem}", row=row, column=layout.columns[column], hint=hint)


def _span(names: tuple[str, ...]) -> str:
    return f"{names[0]} .. {names[-1]}"


def _options(layout: Layout) -> str:
    if layout.options is None:
        return "the columns of the model"
    return f"{layout.options}num_dense and {layout.options}num_sparse"


def _another_kind_of_file(line: bytes, layout: Layout, row: int) -> str:
    """The hint where all rows are of another kind, or where the first one is none; otherwise nothing."""
    if row == 1 and (encoding := _byte_order_mark(line)):
        return f"the file starts with a byte order mark ({encoding}): save it as plain ASCII or UTF-8 without one"
    if _is_utf_16(line):
        return "the file is UTF-16: save it as plain ASCII or UTF-8"
    first, *others = line.removesuffix(b"\r").split(b"\r")
    if others and first.count(b"\t") == len(layout.columns) - 1:
        return "rows end with a carriage return alone: end them with newlines (tr '\\r' '\\n')"
    if line.lstrip().startswith(b"{"):
        return "rows are JSON objects: write their values as columns that are separated by tabs"
    if slots := _slots(line):
        return f'the fields are slots "name:value" ({slots} of them): write the values as columns separated by tabs'
    header = row == 1 and _is_header(line)
    if separator := _other_separator(line):
        name, fields = separator
        header_too = ", and leave out the header in its first line" if header else ""
        expected = "" if fields == len(layout.columns) else f" ({_options(layout)} say how many there are)"
        return f"fields are separated by {name} ({fields} of them), not by tabs: convert the file{header_too}{expected}"
    return "the file must have no header: remove its first line" if header else ""


def _byte_order_mark(line: bytes) -> str:
    """The encoding whose mark a line starts with, if it does."""
    return next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if line.startswith(mark)), "")


def _is_utf_16(line: bytes) -> bool:
    """Whether every second byte is 0 and the others are not, as in UTF-16 without a mark."""
    start = line[:64]
    return len(start) >= 8 and any(start[::2]) != any(start[1::2])


def _slots(line: bytes) -> int:
    """How many fields of a row are ``name:value``; 0 if not most of them are. LIBSVM's rows start with a bare label."""
    fields = [field for field in re.split(rb"[\s,;|]+", line) if field]
    slots = sum(_SLOT.fullmatch(field) is not None for field in fields)
    return slots if 2 * slots > len(fields) else 0


def _other_separator(line: bytes) -> tuple[str, int] | None:
    """What separates more fields than tabs do, and how many fields it separates."""
    name, count = max(((name, line.count(byte)) for byte, name in _SEPARATORS.items()), key=lambda found: found[1])
    return (name, count + 1) if count > line.count(b"\t") else None


def _is_header(line: bytes) -> bool:
    """Whether a first line holds names: it starts with one that labels and rows go by, or has no number at all."""
    first, *others = [field.strip(b' "#\r') for field in re.split(rb"[\t,;|]", line)]
    is_usual = re.fullmatch(rb"(is_?)?(label|click(ed)?|target|class|row_?id|id)", first, re.IGNORECASE) is not None
    is_name = re.fullmatch(rb"[A-Za-z_]\w+( \w+)*", first) is not None
    return is_usual or (is_name and not any(re.fullmatch(rb"-?[0-9.]+", field) for field in others))


def _columns_missing(line: bytes, layout: Layout, row: int) -> str:
    """The hint where columns seem to be missing at the end of a row, or the label in all of them; otherwise nothing."""
    fields = line.removesuffix(b"\r").split(b"\t")
    if not layout.labelled:
        return _label_too_many(fields, layout)
    missing = len(layout.columns) - len(fields)
    no_label = "Rows without labels (Kaggle's test.txt) can be neither trained on nor evaluated"
    is_labelled = missing > 0 and len(fields) > 1 and _reads_as(fields, (_LABEL, *_numbers(layout)))
    is_unlabelled = row == 1 and missing == 1 and _reads_as(fields, _numbers(layout))
    if is_labelled:
        or_label = f"; or is the label missing? {no_label}" if is_unlabelled else ""
        return (
            f"was its end cut off, as by a program that strips tabs? Give all {len(layout.columns) - 1} tabs, an empty "
            f"column too; {_options(layout)} say how many columns there are{or_label}"
        )
    return f"is the label missing? {no_label}" if is_unlabelled else ""


def _label_too_many(fields: list[bytes], layout: Layout) -> str:
    """The hint where a row that is to have no label seems to begin with one, or to be cut; otherwise nothing."""
    if len(fields) == len(layout.columns) + 1 and _reads_as(fields, (_LABEL, *_numbers(layout))):
        return "does it begin with a label? The rows are read as rows without labels"
    if 1 < len(fields) < len(layout.columns) and _reads_as(fields, _numbers(layout)):
        return f"was its end cut off, as by a program that strips tabs? Give all {len(layout.columns) - 1} tabs"
    return ""


def _numbers(layout: Layout) -> tuple[re.Pattern[bytes], ...]:
    """What the columns behind the label look like."""
    categories = _INTEGER if layout.id_rows is not None else _CATEGORY
    return (_INTEGER,) * layout.num_dense + (categories,) * layout.num_sparse


def _reads_as(fields: list[bytes], patterns: tuple[re.Pattern[bytes], ...]) -> bool:
    return all(pattern.fullmatch(field) for field, pattern in zip(fields, patterns, strict=False))


def _integer_problem(value: bytes) -> str:
    if re.fullmatch(rb"[+-]?(nan|inf|infinity)", value, re.IGNORECASE):
        return "which is not finite"
    if re.fullmatch(rb"-?[0-9]+", value):
        return f"out of range: not a finite integer of at most {MAX_DECIMAL_DIGITS} digits"
    return "not an integer"


def _hex_problem(value: bytes) -> str:
    if re.fullmatch(rb"[0-9A-Fa-f]+", value):
        return f"longer than {MAX_HEX_DIGITS} hexadecimal digits (32 bits)"
    return f"not a category of 1 to {MAX_HEX_DIGITS} hexadecimal digits"


def _id_problem(value: bytes, rows: int) -> str:
    if not value:
        return f"but every id must be given (0 .. {rows - 1}): ids have none set apart for missing values"
    if re.fullmatch(rb"-?[0-9]+(\.0+)?", value):
        return f"outside of its table's ids 0 .. {rows - 1}"
    return f"not a decimal id (0 .. {rows - 1})"


def _shown(value: bytes) -> str:
    """The value as a person can read it: one line, non-printing characters escaped, at most about 40 characters."""
    try:
        text = repr(value[:64].decode())
    except UnicodeDecodeError:
        text = repr(value[:64])[1:]
    return text if len(text) <= 40 else f"{text[:37]}...{text[-1]}"
