"""Factorisation machine (Rendle, "Factorization machines", ICDM 2010)."""

from __future__ import annotations

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import FmModel
from dlrm.layers.fields import DenseFields, LinearPart, pair_products
from dlrm.models.base import Model
from dlrm.models.tables import Embedding, check_row_width
from dlrm.schema import Schema


class FactorisationMachine(Model):
    """Equation 1: w_0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j, where x_i is a dense feature or tells of an id.

    A row (D,) has equal parts for the tasks, each with a vector (K - 1,) and then a weight; K = D / T, and what is left
    over is not used. So each task has a machine of its own. The vectors of a bag's ids are pooled to one: within a bag
    there are no pairs.

    Attributes:
        tables, linear, dense_fields: the parts with weights; ``dense_fields``, the vectors of dense features, is None
            without these.
    """

    def __init__(
        self, *, embedding: Embedding, linear: LinearPart, dense_fields: DenseFields | None, tasks: int
    ) -> None:
        super().__init__(embedding)
        self.linear = linear
        self.dense_fields = dense_fields
        self.dim, self.tasks = embedding.dims[0], tasks
        self.part = self.dim // tasks

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        rows_BFD = self.vectors(pooled, sparse).unflatten(1, (-1, self.dim))
        parts_BFTK = rows_BFD[..., : self.tasks * self.part].unflatten(2, (self.tasks, self.part))
        vectors_BVTK = parts_BFTK[..., :-1]
        if self.dense_fields is not None:
            of_dense_BNTK = self.dense_fields(dense_BN).unflatten(2, (self.tasks, self.part - 1))
            vectors_BVTK = torch.cat((of_dense_BNTK, vectors_BVTK), dim=1)
        return self.linear(dense_BN, parts_BFTK[..., -1]) + pair_products(vectors_BVTK)  # type: ignore[no-any-return]


def build(config: FmModel, schema: Schema, embedding: Embedding) -> FactorisationMachine:
    """The model around its embedding; its weights are drawn later.

    Raises:
        ConfigError: a row has no room for a vector and a weight of each task.
    """
    tasks, dense = len(schema.tasks), len(schema.dense)
    check_row_width(config, 2 * tasks, "a vector and a weight a task")
    columns = tasks * (config.embedding_dim // tasks - 1)
    return FactorisationMachine(
        embedding=embedding,
        linear=LinearPart(dense, tasks),
        dense_fields=DenseFields(dense, columns) if dense else None,
        tasks=tasks,
    )
