"""Small JSON files in a format and version of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from dlrm.errors import DataError
from dlrm.files import written_beside

_Record = TypeVar("_Record", bound=BaseModel)


def write_record(record: BaseModel, path: str) -> None:
    """Write the file, beside and renamed.

    Raises:
        DataError: the folder cannot be written to.
    """
    target = Path(path).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target) as file:
            file.write(record.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise DataError(path, f"cannot be written ({error.strerror})", hint="make room or name another file") from None


def read_record(kind: type[_Record], path: str, *, other: str, made_by: str, again: str) -> _Record:
    """Read a file of :func:`write_record`.

    Args:
        kind: of the record; the defaults of its fields ``format`` and ``version`` are those that are read.
        path: of the file.
        other: what a file of another format is, in words.
        made_by: the command that writes such a file.
        again: how to get a new one, in words.

    Raises:
        DataError: there is no such file, it is another or of another version, or a value in it cannot be.
    """
    try:
        text = Path(path).expanduser().read_bytes()
    except OSError as error:
        hint = f"write one with dlrm_main.py {made_by}, or check the path"
        raise DataError(path, f"cannot be read ({error.strerror})", hint=hint) from None
    fields = kind.model_fields
    check_format(text, path, fields["format"].default, fields["version"].default, other=other, again=again, hint=again)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        problem = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise DataError(path, f"{where}: {problem}", hint=f"restore it or {again}") from None


def check_format(
    text: str | bytes, path: str, expected: str, version: int, *, other: str, again: str, hint: str
) -> None:
    """See that a text is JSON of a format, in the version that this program reads.

    Args:
        text: of the file.
        path: how messages call it.
        expected: the format.
        version: of the format.
        other: what a file of another format is, in words.
        again: how to get a new one, in words.
        hint: where it is no JSON.

    Raises:
        DataError: it is not.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is not valid JSON ({error})", hint=hint) from None
    if not isinstance(found, dict) or found.get("format") != expected:
        raise DataError(path, f"{other} (no format: {expected})", hint="check the path")
    if found.get("version") != version:
        problem = f"has format version {found.get('version')!r}, this program reads {version}"
        raise DataError(path, problem, hint=f"use the program that wrote it, or {again}")
