"""Options of :mod:`dlrm.models.finalmlp`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from dlrm.config.base import ColumnsIfAny, PositiveInt, Sizes, SizesIfAny
from dlrm.config.model.base import ModelSection


class FinalMlpModel(ModelSection):
    """FinalMLP (arXiv:2304.00902): two MLPs on differently gated features, joined by a bilinear form.

    Tables may have different widths. Several tasks share the two streams; each has a bilinear form of its own.
    """

    kind: Literal["finalmlp"] = "finalmlp"
    stream1: Sizes = (400, 400, 400)
    """Layer sizes of the first stream."""
    stream2: Sizes = (400, 400, 400)
    """Layer sizes of the second stream."""
    gates: SizesIfAny = (400,)
    """Hidden layers of the MLP that gates the features of a stream; none: no feature selection."""
    gate_features1: ColumnsIfAny = ()
    """Features (dense ones and tables, by name) that the first stream's gates depend on; none: gates are the same for all
    samples."""
    gate_features2: ColumnsIfAny = ()
    """The same of the second stream, e.g. features of items where the first has those of users."""
    fusion_heads: PositiveInt = 1
    """Parts that the streams' outputs are cut into; only numbers of the same part are multiplied."""

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        for name in ("stream1", "stream2"):
            if (last := getattr(self, name)[-1]) % self.fusion_heads:
                raise ValueError(f"{name} ends with {last}: must be a multiple of fusion_heads ({self.fusion_heads})")
        if not self.gates and (self.gate_features1 or self.gate_features2):
            raise ValueError("gate_features1 and gate_features2 need gates, e.g. 400")
        return self
