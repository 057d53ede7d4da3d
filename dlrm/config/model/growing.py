"""Options of growing tables (:mod:`dlrm.sharding.growing`)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import Advanced, PositiveInt, Section

_Several = Annotated[PositiveInt, Field(ge=2, lt=2**31)]


class AdmitAll(Section):
    """Every id gets a row when it is first seen."""

    kind: Literal["all"] = "all"


class AdmitSeen(Section):
    """An id gets a row in the step in which it has been seen often enough.

    What was seen is counted exactly, but only of as many ids as there are candidates: the count of the one seen longest ago
    makes way for that of the next.
    """

    kind: Literal["seen"] = "seen"
    times: _Several = 2
    """How often, this time included; each id of a sample counts."""
    candidates: Advanced[PositiveInt | None] = None
    """Ids without a row that are counted at a time, 16 bytes each; as many as rows if left out."""


class EvictNone(Section):
    """No id loses its row: where none is left new ids share the fallback rows."""

    kind: Literal["none"] = "none"


class EvictLru(Section):
    """The id that was seen longest ago makes way for a new one."""

    kind: Literal["lru"] = "lru"


class EvictLfu(Section):
    """The id that was seen least often makes way for a new one; of several that seen longest ago."""

    kind: Literal["lfu"] = "lfu"
    halve_steps: PositiveInt = 1000
    """Every so many steps all counts are halved, so that what was seen often long ago loses its row at last."""


class EvictAge(Section):
    """Of the ids that were not seen in so many steps, that seen longest ago makes way for a new one; younger ones stay."""

    kind: Literal["age"] = "age"
    steps: PositiveInt
    """How many."""


Admission = Annotated[AdmitAll | AdmitSeen, Field(discriminator="kind")]
Eviction = Annotated[EvictNone | EvictLru | EvictLfu | EvictAge, Field(discriminator="kind")]


class GrowingEmbedding(Section):
    """Ids that are unbounded or unknown, in a table of fixed size (docs/tables.md).

    An id that is admitted has a row of its own, one that is evicted loses it, and all others share fallback rows.
    """

    kind: Literal["growing"] = "growing"
    rows: Annotated[PositiveInt, Field(ge=2, lt=2**40)]
    """Rows of the table, fallback rows included."""
    admission: Admission = AdmitAll()
    eviction: Eviction = EvictLru()
    fallback_rows: Advanced[PositiveInt] = 1
    """Rows that ids without a row of their own share, at least: what is left over from whole buckets is added."""
    bucket_rows: Advanced[PositiveInt] = 128
    """Rows of a bucket, at least. The hash of an id says which bucket it belongs to; there it can have any row, and the ids
    of a bucket make way for each other. Larger buckets are filled more evenly and searched more slowly. A checkpoint can
    only be resumed with the same."""

    @model_validator(mode="after")
    def _own_rows_are_left(self) -> Self:
        if self.fallback_rows >= self.rows:
            raise ValueError(f"fallback_rows is {self.fallback_rows} of {self.rows} rows: none is left for an id alone")
        if self.buckets >= 2**31:
            raise ValueError(f"bucket_rows {self.bucket_rows} makes {self.buckets} buckets: 2^31 are too many")
        return self

    @property
    def buckets(self) -> int:
        """How many there are; whatever the number of ranks."""
        return max(1, (self.rows - self.fallback_rows) // self.bucket_rows)

    @property
    def ways(self) -> int:
        """Rows of a bucket."""
        return (self.rows - self.fallback_rows) // self.buckets

    @property
    def own_rows(self) -> int:
        """Rows that ids have for themselves, the table's first; fallback rows follow."""
        return self.buckets * self.ways

    @property
    def candidate_ways(self) -> int:
        """Ids without a row that are counted in each bucket."""
        if not isinstance(self.admission, AdmitSeen):
            return 0
        return -(-(self.admission.candidates or self.own_rows) // self.buckets)
