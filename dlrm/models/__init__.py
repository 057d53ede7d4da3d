"""The models, one file each, behind what the trainer asks of them (``base``); their tables, initial weights and loss.

Shape suffixes of this package and of :mod:`dlrm.layers`: B samples, N dense features, F sparse features (one table each),
D embedding dimension, V vectors that interact, P pairs of them, X columns of the pooled embeddings of all tables side by
side, H hidden units.
"""

from dlrm.models.build import build_model
from dlrm.models.dlrm import DLRM
from dlrm.models.task import TrainTask

__all__ = ["DLRM", "TrainTask", "build_model"]
