"""The models, each a variant chosen by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import Fraction, PositiveFloat, PositiveInt, Section, Sizes, SizesIfAny

Pooling = Literal["sum", "mean"]
BOTTOM_MLP = (512, 256, 64, 16)


class DotInteraction(Section):
    """Dot products of all pairs of vectors (bottom output and pooled embeddings), after the bottom output itself.

    Without dense features, of all pairs of pooled embeddings, which takes two tables or self_interaction.
    """

    kind: Literal["dot"] = "dot"
    self_interaction: bool = False
    """Include each vector's product with itself."""


class CatInteraction(Section):
    """The bottom output and all pooled embeddings side by side; tables may have different dimensions."""

    kind: Literal["cat"] = "cat"


class DcnInteraction(Section):
    """Low-rank cross network of DCN v2 (arXiv:2008.13535, section 3.4) over the concatenation."""

    kind: Literal["dcn"] = "dcn"
    layers: PositiveInt = 3
    """Cross layers."""
    rank: PositiveInt = 512
    """Rank of each layer's weight matrix."""


class ProjectionInteraction(Section):
    """Two learned projections of all vectors, multiplied (torchrec's DLRM_Projection)."""

    kind: Literal["projection"] = "projection"
    branch1: Sizes
    """Layer sizes of the first projection; the last must be a multiple of embedding_dim."""
    branch2: Sizes
    """Layer sizes of the second projection; the last must be a multiple of embedding_dim."""


Interaction = Annotated[
    DotInteraction | CatInteraction | DcnInteraction | ProjectionInteraction, Field(discriminator="kind")
]


class SharedBottom(Section):
    """Several tasks share all but their last layers."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    tower: SizesIfAny = ()
    """Sizes of the hidden layers that each task has for itself. None: the last layer has a logit a task."""


class TableOverride(Section):
    """What differs from the rest for one table."""

    embedding_dim: PositiveInt | None = None
    """Width of this table's rows."""
    pooling: Pooling | None = None
    """How the ids of a sample become one vector."""


class _Model(Section):
    """What all models have: tables, one a sparse feature."""

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


class DlrmModel(_Model):
    """DLRM (arXiv:1906.00091): an MLP on the dense features, the tables, their interaction, an MLP on that."""

    kind: Literal["dlrm"] = "dlrm"
    bottom_mlp: Sizes = BOTTOM_MLP
    """Layer sizes of the MLP on the dense features; the last must be embedding_dim unless the interaction is cat. Data
    without dense features have no such MLP: leave it out."""
    top_mlp: Sizes = (512, 256, 1)
    """Layer sizes of the MLP on the interaction, its output (1: a logit a task) included."""
    interaction: Interaction = DotInteraction()
    heads: SharedBottom = SharedBottom()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.top_mlp[-1] != 1:
            raise ValueError(f"top_mlp ends with {self.top_mlp[-1]}: the last layer gives the logit and must be 1")
        if self.heads.tower and len(self.top_mlp) == 1:
            raise ValueError("heads.tower needs a hidden layer of top_mlp to stand on, as in 256,1")
        if self.interaction.kind == "cat":
            return self
        if self.bottom_mlp != BOTTOM_MLP and self.fault_in_bottom_mlp:
            raise ValueError(self.fault_in_bottom_mlp)
        if self.other_width and self.interaction.kind != "dcn":
            raise ValueError(
                f"tables.{self.other_width}.embedding_dim differs from embedding_dim: interaction {self.interaction.kind} "
                "needs equal dimensions; cat and dcn do not"
            )
        if isinstance(self.interaction, ProjectionInteraction):
            for name in ("branch1", "branch2"):
                last = getattr(self.interaction, name)[-1]
                if last % self.embedding_dim:
                    raise ValueError(
                        f"interaction.{name} ends with {last}: "
                        f"must be a multiple of embedding_dim ({self.embedding_dim})"
                    )
        return self

    @property
    def fault_in_bottom_mlp(self) -> str:
        """Why the bottom MLP's output is no vector that interacts, in words; empty if it is one.

        Where ``bottom_mlp`` is left out this matters only if the data have dense features, which is known later.
        """
        if self.interaction.kind == "cat" or self.bottom_mlp[-1] == self.embedding_dim:
            return ""
        return (
            f"bottom_mlp ends with {self.bottom_mlp[-1]}, embedding_dim is {self.embedding_dim}: "
            f"they must be equal for interaction {self.interaction.kind}"
        )


class DeepFmModel(_Model):
    """DeepFM (arXiv:1703.04247): a factorization machine and an MLP on the same field vectors; the logit is their sum.

    A row of a table holds an id's vector and, as its last number, its first-order weight: one look-up brings both. Each
    dense feature is a field, too: its value times a vector (and weight) of its own.
    """

    kind: Literal["deepfm"] = "deepfm"
    deep_mlp: Sizes = (400, 400, 400)
    """Sizes of the hidden layers of the MLP on all field vectors; the logits' layer follows."""
    heads: SharedBottom = SharedBottom()

    @model_validator(mode="after")
    def _widths_are_equal(self) -> Self:
        if self.other_width:
            raise ValueError(
                f"tables.{self.other_width}.embedding_dim differs from embedding_dim: deepfm multiplies the vectors of all "
                "fields, so that they need equal dimensions"
            )
        return self


ModelConfig = Annotated[DlrmModel | DeepFmModel, Field(discriminator="kind")]
