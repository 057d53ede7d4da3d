"""The model: bottom MLP, tables, interaction, top MLP (arXiv:1906.00091, figure 1), its initial weights and its loss.

Shape suffixes of this package: B samples, N dense features, F sparse features (one table each), D embedding dimension,
V vectors that interact (the bottom MLP's and one a table), P pairs of them, X columns of the pooled embeddings of all
tables side by side, H hidden units.
"""

from dlrm.model.build import build_model
from dlrm.model.dlrm import DLRM, TrainTask

__all__ = ["DLRM", "TrainTask", "build_model"]
