"""Options of tables with fewer numbers than an id's own row for every id takes (:mod:`dlrm.lookups`)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import Number, PositiveInt, Section, Size

_Ids = Annotated[int, Number, Field(ge=2, le=2**40)]
_Functions = Annotated[int, Number, Field(ge=1, le=16)]
Temperature = Annotated[float, Number, Field(ge=0, le=1)]


class HashedEmbedding(Section):
    """Ids share rows by a hash of the id. A table that has no more ids than rows is left as it is."""

    kind: Literal["hashed"] = "hashed"
    rows: Size | None = None
    """Rows of the table; instead of ids_per_row."""
    ids_per_row: _Ids | None = None
    """Ids that share a row, in the mean; instead of rows."""
    hash: Literal["mixed", "modulo"] = "mixed"
    """mixed: a hash of the id's bits (SplitMix64), another one for each table. modulo: the id modulo the rows."""
    functions: _Functions = 1
    """Rows that an id has, summed, each by a hash of its own, so that hardly two ids share all of them."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.rows is None) == (self.ids_per_row is None):
            raise ValueError("takes one of rows and ids_per_row")
        if self.hash == "modulo" and self.functions > 1:
            raise ValueError(f"functions is {self.functions}, and modulo is a single one: use hash mixed")
        return self


class QuotientRemainder(Section):
    """Two small tables in the place of one (arXiv:1909.02107).

    An id's vector is made of the row of its quotient and the row of its remainder by a number, a pair that no other id has.
    """

    kind: Literal["quotient_remainder"] = "quotient_remainder"
    ids_per_row: _Ids = 4
    """Ids that share a row of the table of remainders; the table of quotients has about as many rows as this."""
    operation: Literal["mult", "add", "concat"] = "mult"
    """What makes one vector of two rows. mult: their product, for features with one id a sample. add: their sum. concat:
    both side by side, each half as wide."""
    min_rows: PositiveInt = 200
    """Tables with fewer ids are left as they are."""


class FrequencyCapped(Section):
    """Only the first ids have a row of their own; all others share one, or a few.

    It is meant for ids that are numbered by how often they occur, the most frequent first
    (docs/tables.md says which data are).
    """

    kind: Literal["frequency_capped"] = "frequency_capped"
    rows: Size
    """Ids that have a row of their own: 0 .. rows - 1."""
    tail_rows: Size = 1
    """Rows that all others share, by a hash of the id."""


class MixedDim(Section):
    """Narrow rows for large tables (arXiv:1909.11810).

    A matrix of weights, the group ``fields``, makes vectors of embedding_dim of them.
    """

    kind: Literal["mixed_dim"] = "mixed_dim"
    temperature: Temperature = 0.3
    """Width of rows: embedding_dim * (rows of the smallest table / rows of this)^temperature. 0: all are as wide."""
    powers_of_two: bool = True
    """Round widths to the nearest power of two."""
    dim: PositiveInt | None = None
    """Width of rows, in the place of temperature's."""
