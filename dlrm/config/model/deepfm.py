"""Options of :mod:`dlrm.models.deepfm`."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import Sizes
from dlrm.config.model.base import EqualWidths
from dlrm.config.model.heads import Heads, SharedBottom


class DeepFmModel(EqualWidths):
    """DeepFM (arXiv:1703.04247): a factorization machine and an MLP on the same field vectors; the logit is their sum.

    A row of a table holds an id's vector and, as its last number, its first-order weight: one look-up brings both. Each
    dense feature is a field, too: its value times a vector (and weight) of its own.
    """

    kind: Literal["deepfm"] = "deepfm"
    deep_mlp: Sizes = (400, 400, 400)
    """Sizes of the hidden layers of the MLP on all field vectors; the logits' layer follows."""
    heads: Heads = SharedBottom()
