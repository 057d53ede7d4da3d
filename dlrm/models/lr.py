"""Logistic regression: the linear model that all others are measured against."""

from __future__ import annotations

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import LrModel
from dlrm.layers.fields import LinearPart
from dlrm.models.base import Model
from dlrm.models.tables import Embedding, check_row_width
from dlrm.schema import Schema


class LogisticRegression(Model):
    """The logit of task t is b_t + sum_n w_tn x_n + the sum of the weights of the sample's ids.

    An id's weight for task t is column t of its row; further columns are not used. (Row-wise optimizers average over the
    whole row, so that with one task of four columns their rate has twice its effect.)

    Attributes:
        tables, linear: the parts with weights.
    """

    def __init__(self, *, embedding: Embedding, linear: LinearPart, tasks: int) -> None:
        super().__init__(embedding)
        self.linear = linear
        self.dim, self.tasks = embedding.dims[0], tasks

    def forward(self, dense_BN: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """float32 (B, T), the logits; see :meth:`dlrm.models.base.Model.forward`."""
        pooled = self.tables(sparse)
        rows_BFD = self.vectors(pooled, sparse).unflatten(1, (-1, self.dim))
        return self.linear(dense_BN, rows_BFD[..., : self.tasks])  # type: ignore[no-any-return]


def build(config: LrModel, schema: Schema, embedding: Embedding) -> LogisticRegression:
    """The model around its embedding; its weights are drawn later.

    Raises:
        ConfigError: there are more tasks than columns in a row.
    """
    tasks = len(schema.tasks)
    check_row_width(config, tasks, "a weight a task")
    return LogisticRegression(embedding=embedding, linear=LinearPart(len(schema.dense), tasks), tasks=tasks)
