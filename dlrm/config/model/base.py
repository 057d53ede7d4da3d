"""What all models have: the options of their tables."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import Columns, Fraction, PositiveFloat, PositiveInt, Section
from dlrm.config.model.embeddings import EmbeddingConfig, FullEmbedding
from dlrm.format import escaped

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
    """Share of the hidden units of the MLP that gives the logit dropped in training (finalmlp: of both streams; wukong: of
    the MLPs of its layers, too)."""
    embedding_init_bound: PositiveFloat | None = None
    """Tables start uniform between -bound and bound; sqrt(1/rows), as in arXiv:1906.00091, if left out."""
    embedding: EmbeddingConfig = FullEmbedding()
    tables: dict[str, TableOverride] = Field(default_factory=dict)
    """Overrides for single tables, by name."""
    shared_tables: dict[str, Columns] = Field(default_factory=dict)
    """Tables of several features whose ids mean the same, by a name for the table: {items: [clicked, bought]}."""

    @model_validator(mode="after")
    def _several_share(self) -> Self:
        for table, features in self.shared_tables.items():
            if len(set(features)) < 2:
                raise ValueError(
                    f"shared_tables.{escaped(table)} names one feature, {escaped(features[0])}: name what shares the table "
                    "with it, or leave it out"
                )
        return self

    def embedding_of(self, table: str) -> EmbeddingConfig:
        """How the ids of a feature become rows of its table."""
        own = self.tables.get(table)
        return own.embedding if own is not None and own.embedding is not None else self.embedding

    @property
    def other_width(self) -> str:
        """The first table whose rows have another width than the rest; empty if all are equal."""
        return next((name for name, t in self.tables.items() if t.embedding_dim not in (None, self.embedding_dim)), "")


class EqualWidths(ModelSection):
    """Options of a model whose tables have rows of one width."""

    why_equal: ClassVar[str] = "multiplies the vectors of all fields"
    """What the model does with them that needs it."""

    @model_validator(mode="after")
    def _widths_are_equal(self) -> Self:
        if self.other_width:
            kind = type(self).model_fields["kind"].default
            raise ValueError(
                f"tables.{self.other_width}.embedding_dim differs from embedding_dim: {kind} {self.why_equal}, so that "
                "they need equal dimensions"
            )
        return self


class WithoutHiddenUnits(EqualWidths):
    """Options of a model that has no hidden layer."""

    @model_validator(mode="after")
    def _nothing_is_dropped(self) -> Self:
        if self.dropout:
            kind = type(self).model_fields["kind"].default
            raise ValueError(f"dropout is {self.dropout}, but {kind} has no hidden units to drop: leave it out")
        return self
