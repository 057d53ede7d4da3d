"""Options of :mod:`dlrm.models.dcn_v1`."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import PositiveInt, Sizes
from dlrm.config.model.base import ModelSection
from dlrm.config.model.heads import Heads, SharedBottom


class DcnV1Model(ModelSection):
    """Deep & Cross Network (arXiv:1708.05123): cross layers beside an MLP, both on dense features and vectors.

    The defaults are those of arXiv:1906.00091, section 5.1. Tables may have different widths. (DCN v2, with matrices in
    place of the cross layers' vectors, is an interaction of dlrm: interaction.kind dcn.)
    """

    kind: Literal["dcn_v1"] = "dcn_v1"
    cross_layers: PositiveInt = 6
    """Layers of the cross part: products of up to one feature more than there are layers."""
    deep_mlp: Sizes = (512, 256)
    """Sizes of the hidden layers of the deep part; the logits' layer follows."""
    heads: Heads = SharedBottom()
