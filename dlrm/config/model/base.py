"""What all models have: the options of their tables."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dlrm.config.base import Fraction, PositiveFloat, PositiveInt, Section

Pooling = Literal["sum", "mean"]


class TableOverride(Section):
    """What differs from the rest for one table."""

    embedding_dim: PositiveInt | None = None
    """Width of this table's rows."""
    pooling: Pooling | None = None
    """How the ids of a sample become one vector."""


class ModelSection(Section):
    """What all models have: tables, one a sparse feature.

    Attributes:
        unpooled_histories: whether the model looks histories up in the table of the feature that they are of, vector by
            vector (docs/sequences.md). To others a history is a bag with a table of its own.
    """

    unpooled_histories: ClassVar[bool] = False

    embedding_dim: PositiveInt = 16
    """Width of the rows of every table."""
    pooling: Pooling = "sum"
    """How the ids of a sample become one vector."""
    dropout: Fraction = 0.0
    """Share of the hidden units of the MLP that gives the logit dropped in training."""
    embedding_init_bound: PositiveFloat | None = None
    """Tables start uniform between -bound and bound; sqrt(1/rows), as in arXiv:1906.00091, if left out."""
    tables: dict[str, TableOverride] = Field(default_factory=dict)
    """Overrides for single tables, by name."""

    @property
    def other_width(self) -> str:
        """The first table whose rows have another width than the rest; empty if all are equal."""
        return next((name for name, t in self.tables.items() if t.embedding_dim not in (None, self.embedding_dim)), "")
