"""The file that statistics of ids are kept in: JSON, without an id of the data but those of the hottest rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dlrm.data.id_statistics.measured import MeasuredIds
from dlrm.data.json_files import read_record, write_record

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
    write_record(_File(features=tuple(_Feature(**asdict(ids)) for ids in statistics)), path)


def read_statistics(path: str) -> tuple[MeasuredIds, ...]:
    """Read a file of :func:`write_statistics`.

    Raises:
        DataError: there is no such file, it is another or of another version, or a value in it cannot be.
    """
    made_by = "inspect --id_statistics FILE"
    record = read_record(_File, path, other="holds no statistics of ids", made_by=made_by, again="write it again")
    return tuple(MeasuredIds(**dict(feature)) for feature in record.features)
