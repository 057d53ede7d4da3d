"""Options of :mod:`dlrm.models.xdeepfm`."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import Sizes
from dlrm.config.model.base import EqualWidths
from dlrm.config.model.heads import Heads, SharedBottom


class XDeepFmModel(EqualWidths):
    """xDeepFM (arXiv:1803.05170): first-order weights, a compressed interaction network (CIN) and an MLP.

    A row of a table holds an id's vector and then its first-order weight, one a task. Each dense feature is a field, too:
    its value times a vector of its own.
    """

    kind: Literal["xdeepfm"] = "xdeepfm"
    cin: Sizes = (200, 200, 200)
    """Feature maps of each layer of the CIN: products of up to one field more than there are layers. A step's memory grows
    with maps x fields x embedding_dim."""
    deep_mlp: Sizes = (400, 400)
    """Sizes of the hidden layers of the MLP on all field vectors; the logits' layer follows."""
    heads: Heads = SharedBottom()
