"""Options of :mod:`dlrm.models.wukong`."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import PositiveInt, Sizes, SizesIfAny
from dlrm.config.model.base import EqualWidths
from dlrm.config.model.heads import Heads, SharedBottom


class WukongModel(EqualWidths):
    """Wukong (arXiv:2403.02545): stacked layers of factorisation machines and linear recombinations of vectors.

    Layer l knows products of up to 2^l features.
    """

    kind: Literal["wukong"] = "wukong"
    layers: PositiveInt = 2
    """Layers of the stack (l in the paper)."""
    fm_vectors: PositiveInt = 16
    """Vectors that a layer makes of the products of pairs (n_F)."""
    linear_vectors: PositiveInt = 16
    """Vectors that a layer makes as sums of its vectors (n_L)."""
    fm_rank: PositiveInt = 16
    """Columns of the matrix that the products are multiplied by (k)."""
    fm_mlp: Sizes = (512,)
    """Hidden layers of the MLP that makes vectors of the products."""
    attention_mlp: SizesIfAny = ()
    """Hidden layers of an MLP that makes this matrix for each sample; none: it is the same for all samples."""
    dense_mlp: SizesIfAny = (512,)
    """Hidden layers of the MLP that makes a vector of the dense features."""
    top_mlp: Sizes = (512, 256)
    """Sizes of the hidden layers of the MLP on the last vectors; the logits' layer follows."""
    heads: Heads = SharedBottom()
