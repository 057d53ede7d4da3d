"""What the trainer asks of a model. Its own file alone knows more: how it is built of layers, and what its options mean.

A model is a module with all of its tables in one collection (or two, where rows of some are not summed), and everything
else in child modules. Each child with weights is a *group*: its name is what ``optim.lr_scale`` calls its weights, and
begins their names in checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from dlrm.layers.pooling import PooledColumns
from dlrm.layers.separate_rows import SeparateRows
from dlrm.models.tables import Embedding

TABLES = "tables"
COLLECTIONS = (TABLES, "sequence_tables")
"""The children that hold tables and nothing else."""


class Model(nn.Module):
    """Base of the models.

    Attributes:
        tables: all embedding tables. Sharding puts a sharded collection in its place.
        sequence_tables: those tables whose rows are looked up one by one and are not in ``tables``, if the model has some.
        rows: makes of what these return the rows of each feature: ``rows(sequence_tables(sparse))``.
        pooling: puts what they return side by side: ``pooling(tables(sparse), sparse)``. The rest of the model, which takes
            that, is its *dense part*; an export begins here.
        fields: makes of it the vectors of the features, where tables hold something else than these.
        lookups: what ``sparse`` has to be of the ids of a sample.
    """

    tables: EmbeddingBagCollection
    pooling: PooledColumns
    fields: nn.Module
    sequence_tables: EmbeddingCollection | None
    rows: SeparateRows

    lower_precision: Collection[str] = ()
    """Names of the child modules that ``precision.dense`` may have compute in lower precision; the trainer keeps the last
    layer of an MLP that gives logits in float32."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.tables = embedding.tables
        self.pooling = embedding.pooling
        self.fields = embedding.fields
        self.sequence_tables = embedding.sequence_tables
        self.rows = embedding.rows
        self.lookups = embedding.lookups

    @property
    def groups(self) -> list[str]:
        """The groups of weights outside of the tables, in the order in which they were defined."""
        names = (group_of(name) for name, _ in self.named_parameters())
        return list(dict.fromkeys(name for name in names if name not in COLLECTIONS))

    @property
    def table_weights(self) -> dict[str, nn.Parameter]:
        """The weights (rows, D) of all tables that are not sharded, by the names that torchrec has for them."""
        found = {
            table.name: self.tables.embedding_bags[table.name].weight for table in self.tables.embedding_bag_configs()
        }
        if self.sequence_tables is not None:
            for table in self.sequence_tables.embedding_configs():
                found[table.name] = self.sequence_tables.embeddings[table.name].weight
        return found

    def freeze(self, names: Collection[str]) -> None:
        """Leave groups and tables untrained; before the model is sharded.

        Parameters of a group have no gradient. What is looked up in a table has one of zeros, which leaves rows and state
        as they are under every table optimizer but Adam: fbgemm's kernels know nothing of tables that are not trained.

        Args:
            names: of groups and tables.
        """
        for name, parameter in self.named_parameters():
            if group_of(name) not in COLLECTIONS and group_of(name) in names:
                parameter.requires_grad_(False)
        features = [lookup.name for lookup in self.lookups.lookups if lookup.table in names]
        self.pooling.freeze(features)
        self.rows.freeze(features)

    def scale_table_gradients(self, factors: Mapping[str, float]) -> None:
        """Multiply the gradients that tables get by a factor each, by name; by 1 where none is named."""
        self.pooling.scale_gradients([factors.get(lookup.table, 1.0) for lookup in self.lookups.pooled])
        self.rows.scale_gradients({lookup.name: factors.get(lookup.table, 1.0) for lookup in self.lookups.unpooled})

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The logit of each task for each sample.

        The train pipelines trace this symbolically (torch.fx), but no child module other than those that hold tables,
        which are called with ``sparse`` as it comes: loops over tensors and conditions on their values or sizes belong into
        a child.

        Args:
            dense_BN: float32 (B, N); N is 0 where the data have no dense features.
            sparse: what is looked up of the ids of every feature; empty bags are pooled to zeros.

        Returns:
            float32 (B, T), T = len(schema.tasks).
        """
        raise NotImplementedError

    def vectors(self, pooled: KeyedTensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The vectors of the features side by side, float32 (B, X), where ``pooled`` is ``self.tables(sparse)``.

        Sharded tables have only started their exchange when they return, and this waits for its end: what does not need the
        vectors comes before.
        """
        return self.fields(self.pooling(pooled, sparse))  # type: ignore[no-any-return]


def group_of(name: str) -> str:
    """The group of a parameter, by its name within the model: that of the child which holds it."""
    return name.split(".", 1)[0]
