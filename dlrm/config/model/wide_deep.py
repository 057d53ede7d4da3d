"""Options of :mod:`dlrm.models.wide_deep`."""

from __future__ import annotations

from typing import ClassVar, Literal

from dlrm.config.base import Sizes
from dlrm.config.model.base import EqualWidths
from dlrm.config.model.heads import Heads, SharedBottom


class WideDeepModel(EqualWidths):
    """Wide & Deep (arXiv:1606.07792): logistic regression plus an MLP on dense features and vectors, trained together.

    A row of a table holds an id's vector and then its weight in the wide part, one a task. The wide part sees the features
    as they are: products of features that it is to know (the paper's cross-product transformations) are columns of the
    data.
    """

    kind: Literal["wide_deep"] = "wide_deep"
    deep_mlp: Sizes = (1024, 512, 256)
    """Sizes of the hidden layers of the deep part; the logits' layer follows."""
    heads: Heads = SharedBottom()
    why_equal: ClassVar[str] = "reads the weights of its wide part from the same columns of all rows"
