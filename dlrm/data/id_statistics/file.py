"""The file that statistics of ids are kept in: JSON, without an id of the data but those of the hottest rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dlrm.data.id_statistics.measured import MeasuredIds
from dlrm.errors import DataError
from dlrm.files import written_beside

FORMAT: Literal["dlrm-id-statistics"] = "dlrm-id-statistics"
VERSION: Literal[1] = 1

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Positive = Annotated[int, Field(ge=1, le=2**53)]
_Share = Annotated[float, Field(ge=0, le=1 + 1e-9)]
_Expected = Annotated[float, Field(ge=0.9)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Feature(_Record):
    name: str
    rows: Annotated[int, Field(ge=1, le=2**40)]
    samples: _Positive
    lookups: _Count
    seen: _Count
    once: _Count
    twice: _Count
    hot_rows: tuple[_Count, ...]
    hot_counts: tuple[_Positive, ...]
    distinct_lookups: tuple[_Positive, ...]
    distinct_ids: tuple[_Expected, ...]
    cache_rows: Annotated[tuple[_Positive, ...], Field(min_length=1)]
    cache_shares: tuple[_Share, ...]
    bucket_counts: Annotated[tuple[_Count, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for one, other in (
            ("hot_rows", "hot_counts"),
            ("distinct_lookups", "distinct_ids"),
            ("cache_rows", "cache_shares"),
        ):
            if len(getattr(self, one)) != len(getattr(self, other)):
                raise ValueError(f"{one} and {other} must have as many entries")
        for name in ("distinct_lookups", "cache_rows"):
            knots = getattr(self, name)
            if any(left >= right for left, right in pairwise(knots)):
                raise ValueError(f"{name} must ascend")
        if sum(self.hot_counts) + sum(self.bucket_counts) != self.lookups:
            raise ValueError(f"hot_counts and bucket_counts must add up to the {self.lookups} lookups")
        if any(row >= self.rows for row in self.hot_rows):
            raise ValueError(f"hot_rows must be rows of the table (0 .. {self.rows - 1})")
        return self


class _File(_Record):
    format: Literal["dlrm-id-statistics"] = FORMAT
    version: Literal[1] = VERSION
    features: Annotated[tuple[_Feature, ...], Field(min_length=1)]


def write_statistics(statistics: Sequence[MeasuredIds], path: str) -> None:
    """Write the file, beside and renamed.

    Raises:
        DataError: the folder cannot be written to.
    """
    record = _File(features=tuple(_Feature(**asdict(ids)) for ids in statistics))
    target = Path(path).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target) as file:
            file.write(record.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise DataError(path, f"cannot be written ({error.strerror})", hint="make room or name another file") from None


def read_statistics(path: str) -> tuple[MeasuredIds, ...]:
    """Read a file of :func:`write_statistics`.

    Raises:
        DataError: there is no such file, it is another or of another version, or a value in it cannot be.
    """
    try:
        text = Path(path).expanduser().read_bytes()
    except OSError as error:
        hint = "write one with dlrm_main.py inspect --id_statistics FILE, or check the path"
        raise DataError(path, f"cannot be read ({error.strerror})", hint=hint) from None
    _check_format(text, path)
    try:
        record = _File.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        problem = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise DataError(path, f"{where}: {problem}", hint="restore it or write it again") from None
    return tuple(MeasuredIds(**dict(feature)) for feature in record.features)


def _check_format(text: bytes, path: str) -> None:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is not valid JSON ({error})", hint="write it again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(path, f"holds no statistics of ids (no format: {FORMAT})", hint="check the path")
    if found.get("version") != VERSION:
        problem = f"has format version {found.get('version')!r}, this program reads {VERSION}"
        raise DataError(path, problem, hint="use the program that wrote it, or write it again")
