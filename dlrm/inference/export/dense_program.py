"""The dense part of a model, all that follows the tables, as a ``torch.export`` program."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dlrm.errors import ConfigError
from dlrm.models.base import TABLES, Model

POOLING = "pooling"
_MOST_ROWS = 1 << 20


class DensePart(nn.Module):
    """A model whose pooled embeddings are given.

    Args:
        model: with weights outside of its tables; it is left as it is.

    Raises:
        ConfigError: it has no child ``pooling``.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        if POOLING not in model._modules:
            message = f"has no child called {POOLING}, after which its dense part begins, and cannot be exported"
            raise ConfigError.at("model.kind", message)
        self.model = copy.copy(model)
        self.model._modules = {**model._modules, TABLES: _Given(), POOLING: _Given()}

    def forward(self, dense_BN: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, N) and (B, X) -> logits, float32 (B, T)."""
        return self.model(dense_BN, pooled_BX).float()  # type: ignore[no-any-return]


class _Given(nn.Module):
    """Hands on the pooled embeddings, in the place of what would make them."""

    def forward(self, pooled_BX: torch.Tensor, sparse: object = None) -> torch.Tensor:
        """float32 (B, X)."""
        return pooled_BX


def export_dense(part: nn.Module, *, dense_features: int, pooled_columns: int) -> torch.export.ExportedProgram:
    """The program of a dense part, for any number of rows.

    Args:
        part: (dense_BN, pooled_BX) -> logits_BT.
        dense_features: N.
        pooled_columns: X.
    """
    rows = torch.export.Dim("rows", min=1, max=_MOST_ROWS)
    example = torch.zeros(3, dense_features), torch.zeros(3, pooled_columns)
    with warnings.catch_warnings(), torch.no_grad(), quiet():
        warnings.simplefilter("ignore")
        return torch.export.export(part.eval(), example, dynamic_shapes=({0: rows}, {0: rows}))


@contextmanager
def quiet() -> Iterator[None]:
    """Torch warns of its own tracing while it traces."""
    logger = logging.getLogger("torch.fx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
