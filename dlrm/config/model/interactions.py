"""The interactions of ``dlrm``, each a variant chosen by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlrm.config.base import PositiveInt, Section, Sizes


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
    """Low-rank cross network of DCN v2 (arXiv:2008.13535, section 3.5) over the concatenation."""

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
