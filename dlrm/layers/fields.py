"""What models of fields share: rows for dense features, the linear part, and the sum over pairs.

A *field* is a dense feature or a table. V of them interact.
"""

from __future__ import annotations

import torch
from torch import nn


class DenseFields(nn.Module):
    """A row of weights for each dense feature, times its value.

    Attributes:
        weight: float32 (N, D).
    """

    initial_std = 0.01

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, dim))

    def forward(self, dense_BN: torch.Tensor) -> torch.Tensor:
        """float32 (B, N) -> float32 (B, N, D)."""
        return dense_BN.unsqueeze(2) * self.weight


class LinearPart(nn.Module):
    """Logistic regression's logit for each task: a bias, a weight for each dense feature, a weight for each id.

    The weights of ids are columns of the tables' rows, and come from there.

    Attributes:
        bias: float32 (T,).
        weight: of dense features, float32 (T, N); None where there are none.
    """

    initial_std = 0.01

    def __init__(self, features: int, tasks: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(tasks))
        self.weight = nn.Parameter(torch.empty(tasks, features)) if features else None

    def forward(self, dense_BN: torch.Tensor, weights_BFT: torch.Tensor) -> torch.Tensor:
        """float32 (B, T).

        Args:
            dense_BN: float32 (B, N).
            weights_BFT: of the sample's ids, float32 (B, F, T), pooled where a bag has several.
        """
        logits_BT = weights_BFT.sum(1) + self.bias
        return logits_BT if self.weight is None else logits_BT + nn.functional.linear(dense_BN, self.weight)


def pair_products(vectors: torch.Tensor) -> torch.Tensor:
    """The sum of the products of all pairs of vectors, in time linear in their number (Rendle 2010, lemma 3.1).

    (B, V, D) -> (B,), and with dimensions between the last two, (B, V, ..., D) -> (B, ...).
    """
    return (vectors.sum(1).square() - vectors.square().sum(1)).sum(-1) / 2
