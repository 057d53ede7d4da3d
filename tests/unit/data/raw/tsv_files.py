"""Tiny raw Criteo files: two integer and three category columns, and a plain-Python reading of them to compare with."""

import gzip
import re
from pathlib import Path

from dlrm.data.raw.layout import Layout

LAYOUT = Layout(num_dense=2, num_sparse=3)
INTEGERS = slice(1, 3)
CATEGORIES = slice(3, 6)

LABEL = re.compile(rb"[01](\.0{1,18})?")
INTEGER = re.compile(rb"(-?[0-9]{1,18}(\.0{1,18})?)?")
CATEGORY = re.compile(rb"[0-9a-fA-F]{0,8}")
FIELD_PATTERNS = (LABEL, INTEGER, INTEGER, CATEGORY, CATEGORY, CATEGORY)


def line(label="0", integers=("1", "2"), categories=("a", "b", "c")) -> bytes:
    return "\t".join([label, *integers, *categories]).encode()


def write(folder: Path, *lines: bytes, name="day.tsv", end=b"\n") -> str:
    """The lines as a file, each ended by ``end``; its path."""
    path = folder / name
    data = b"".join(text + end for text in lines)
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return str(path)


def first_problem(data: bytes) -> tuple[int, str | None] | None:
    """Row and column (none: the row as a whole) of the first malformed field, by regular expressions."""
    for row, text in enumerate(data.removesuffix(b"\n").split(b"\n"), start=1):
        fields = text.removesuffix(b"\r").split(b"\t")
        if len(fields) != len(FIELD_PATTERNS):
            return row, None
        for name, pattern, field in zip(LAYOUT.columns, FIELD_PATTERNS, fields, strict=True):
            if not pattern.fullmatch(field):
                return row, name
    return None
