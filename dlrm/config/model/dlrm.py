"""Options of :mod:`dlrm.models.dlrm`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from dlrm.config.base import Sizes
from dlrm.config.model.base import ModelSection
from dlrm.config.model.heads import Heads, SharedBottom, check_top_mlp
from dlrm.config.model.interactions import DotInteraction, Interaction, ProjectionInteraction

BOTTOM_MLP = (512, 256, 64, 16)


class DlrmModel(ModelSection):
    """DLRM (arXiv:1906.00091): an MLP on the dense features, the tables, their interaction, an MLP on that."""

    kind: Literal["dlrm"] = "dlrm"
    bottom_mlp: Sizes = BOTTOM_MLP
    """Layer sizes of the MLP on the dense features; the last must be embedding_dim unless the interaction is cat. Data
    without dense features have no such MLP: leave it out."""
    top_mlp: Sizes = (512, 256, 1)
    """Layer sizes of the MLP on the interaction, its output (1: a logit a task) included."""
    interaction: Interaction = DotInteraction()
    heads: Heads = SharedBottom()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_top_mlp(self.top_mlp, self.heads)
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
