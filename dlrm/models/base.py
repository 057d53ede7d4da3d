"""What the trainer asks of a model. Its own file alone knows more: how it is built of layers, and what its options mean.

A model is a module with all of its tables in one collection, and everything else in child modules. Each child with weights
is a *group*: its name is what ``optim.lr_scale`` calls its weights, and begins their names in checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.layers.pooling import PooledColumns

TABLES = "tables"


class Model(nn.Module):
    """Base of the models.

    Attributes:
        tables: all embedding tables. Sharding puts a sharded collection in its place.
        pooling: makes of what they return what the rest of the model, its *dense part*, takes: ``pooling(tables(sparse),
            sparse)``. An export begins here.
    """

    tables: EmbeddingBagCollection
    pooling: PooledColumns

    lower_precision: Collection[str] = ()
    """Names of the child modules that ``precision.dense`` may have compute in lower precision; the trainer keeps the last
    layer of an MLP that gives logits in float32."""

    @property
    def groups(self) -> list[str]:
        """The groups of weights outside of the tables, in the order in which they were defined."""
        names = (group_of(name) for name, _ in self.named_parameters())
        return list(dict.fromkeys(name for name in names if name != TABLES))

    def freeze(self, names: Collection[str]) -> None:
        """Leave groups and tables untrained; before the model is sharded.

        Parameters of a group have no gradient. A table's pooled embeddings have one of zeros, which leaves rows and state
        as they are under every table optimizer but Adam: fbgemm's kernels know nothing of tables that are not trained.

        Args:
            names: of groups and tables.
        """
        for name, parameter in self.named_parameters():
            if group_of(name) != TABLES and group_of(name) in names:
                parameter.requires_grad_(False)
        self.pooling.freeze(names)

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The logit of each task for each sample.

        The train pipelines trace this symbolically (torch.fx), but no child module other than ``tables``, which is called
        with ``sparse`` as it comes: loops over tensors and conditions on their values or sizes belong into a child.

        Args:
            dense_BN: float32 (B, N); N is 0 where the data have no dense features.
            sparse: ids of every feature; empty bags are pooled to zeros.

        Returns:
            float32 (B, T), T = len(schema.tasks).
        """
        raise NotImplementedError


def group_of(name: str) -> str:
    """The group of a parameter, by its name within the model: that of the child which holds it."""
    return name.split(".", 1)[0]
