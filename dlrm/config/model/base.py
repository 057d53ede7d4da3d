"""What all models have: the options of their tables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dlrm.config.base import Fraction, PositiveFloat, PositiveInt, Section
from dlrm.config.model.embeddings import EmbeddingConfig, FullEmbedding

Pooling = Literal["sum", "mean"]


class TableOverride(Section):
    """What differs from the rest for one table."""

    embedding_dim: PositiveInt | None = None
    """Width of this table's rows."""
    pooling: Pooling | None = None
    """How the ids of a sample become one vector."""
    embedding: EmbeddingConfig | None = None
    """How ids become rows of this table."""


class ModelSection(Section):
    """What all models have: tables, one a sparse feature."""

    embedding_dim: PositiveInt = 16
    """Width of the rows of every table."""
    pooling: Pooling = "sum"
    """How the ids of a sample become one vector."""
    dropout: Fraction = 0.0
    """Share of the hidden units of the MLP that gives the logit dropped in training."""
    embedding_init_bound: PositiveFloat | None = None
    """Tables start uniform between -bound and bound; sqrt(1/rows), as in arXiv:1906.00091, if left out."""
    embedding: EmbeddingConfig = FullEmbedding()
    tables: dict[str, TableOverride] = Field(default_factory=dict)
    """Overrides for single tables, by name."""

    def embedding_of(self, table: str) -> EmbeddingConfig:
        """How the ids of a feature become rows of its table."""
        own = self.tables.get(table)
        return own.embedding if own is not None and own.embedding is not None else self.embedding

    @property
    def other_width(self) -> str:
        """The first table whose rows have another width than the rest; empty if all are equal."""
        return next((name for name, t in self.tables.items() if t.embedding_dim not in (None, self.embedding_dim)), "")
